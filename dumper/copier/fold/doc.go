// Package fold brings the rows of a copied chunk to the state that they have at the chunk's place in the global order.
package fold
