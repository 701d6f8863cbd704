// Package feed proves the format sql with other people's software: what output/sql writes of real changes goes through the clients
// psql and mariadb into real servers, and the tables there must be those of the source.
package feed
