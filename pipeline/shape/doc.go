// Package shape decides what of the tables is in a stream: which columns and rows, under which names, and what stands in place of
// values that are not for everybody. It works between the joiner and the encoder, so it is the same for every format and target,
// and what is left out or masked never leaves the node.
//
//	s, err := shape.Parse("shape.yaml", data)     // what people write; every fault at once
//	err = s.Check(table)                          // against a table of the source, before anything is made
//	shaper, err := shape.New(s, os.LookupEnv)
//	shaper.Resume(last)
//	for each batch {
//		shaper.Apply(&batch)
//		publish(&batch)
//	}
//
// # What is promised
//
//  1. A fragment of which no table has a rule is passed on as it is, at the cost of a look into a map for each of its tables.
//  2. A reader that applies the stream has, after each transaction, the image of the source's tables: the rows for which the
//     expression is true, with the columns, names and masks of the rules. So an update that makes the expression true is an insert
//     there, one that makes it false a delete.
//  3. What cannot be decided stops the stream, and nothing is let through: a value that the filter needs and the source did not
//     send, a table that changed so that its rule does not fit it any more.
//  4. A transaction of which nothing is left is not in the stream. The next one follows the last one that is, so readers see no
//     gap; the checkpoint tells the positions of what was left out, so a restart does not read it again.
//  5. The key of a hash is in the memory of the node, and nowhere else: the rules hold the name of an environment variable.
//
// # Expressions
//
// The syntax of a filter is expr-lang's, whose parser reads it; the values are PostgreSQL's. Its evaluator computes with floats and
// knows no NULL; here numbers are exact decimals, and NULL is SQL's: every operator with a NULL gives NULL (but == nil, != nil and
// ??), and a row stays if the expression is true, neither false nor NULL. Types are checked when an expression is bound to a table:
//
//	int2, int4, int8, oid, numeric, float4, float8   numbers, exact; NaN equals itself and is above everything
//	bool                                             booleans
//	text, varchar, bpchar, name                      texts, compared byte by byte; bpchar without the blanks at its end
//	date, timestamp                                  a time without an offset
//	timestamptz                                      a time with one
//	everything else                                  its text form, for ==, != and in only
//
// For those who write rules there is docs/shaping.md.
package shape
