// Package pipeline is the vocabulary that every stage of shardcdc speaks: positions (LSN, CSN), what a
// transaction did on one shard (Fragment), the transaction put together again (Transaction), what a shard's
// stream contains (Record), and how far everything has come (Checkpoint).
//
// It is a leaf: it imports no other package of the project, and it uses no clock, lock, goroutine, file or
// network. Row data stays in the bytes that PostgreSQL sent (pgoutput, protocol chapter "Logical Replication
// Message Formats"); Tuple and Change are views into those bytes and copy nothing.
package pipeline
