// Package e2e tries to break "each transaction whole and once" with real processes: cdcd nodes and apply workers, PostgreSQL
// servers and NATS are killed, stopped, continued and restarted under the load of a bank. Each test ends with the same
// checks (harness.Cluster.Finish): no snapshot that was taken of the target on the way broke a law of the bank, source and
// target are equal row by row, and the stream holds each transaction once. Seeds are printed.
package e2e
