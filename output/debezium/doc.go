// Package debezium writes transactions as the change events of Debezium's connector for PostgreSQL: one message per row, on its
// table's subject, so that what reads Debezium's JSON reads these. docs/debezium.md describes them for their readers.
//
//	BEGIN on _tx ─► events of rows, truncations, messages, marks, each on its subject ─► END on _tx
//
// The events of a distributed transaction have one transaction id, and one count of their order. END is the transaction's last
// message, and the only one that ends a transaction for the stream (output.Payload.Transactions).
//
// # What is the same, and why it can be
//
// An event consists of what pgoutput sends and of what the choices (format.DebeziumOptions) say. Debezium's converters work on
// the same text forms of values, so a type's form here is a function of that text, its OID and its modifier: form.go lists them,
// testdata has what Debezium makes of the same statements.
//
// # What differs
//
// Debezium leaves out, or turns into null, what it cannot convert. Nothing becomes null here that is not NULL, but for the columns
// of an old row that PostgreSQL did not send, as there. The rule instead:
//
//   - A type that Debezium does not know is a string with PostgreSQL's text form.
//   - A value that its type's form cannot say (an array of several dimensions, an interval of a million years) stands as a string
//     with its text form in the place of the number, list or object. A reader that relies on the type stops there.
//   - Where that form is base64, and a text might be taken for it (NaN as precise decimal), the encoder refuses: the error says
//     which choice has a form for it.
//   - An unchanged TOAST value has Debezium's placeholder, and its column is named in the header Cdc-Unchanged, so that it can be told
//     from a value that reads the same.
//
// The events of a batch depend on the batch only: Debezium's time of processing (ts_ms of the envelope) is the commit's time here.
package debezium
