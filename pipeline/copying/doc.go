// Package copying brings the rows that the shards hold already into the stream, each at a place of the global order where it
// is what the source has there. It runs beside a capture, and is made anew with it:
//
//	engine := New(config)
//	first := engine.Recover(checkpoint)          // before anything is published; first, if any, is published first
//	go engine.Run()                              // plans jobs, reads chunks, writes marks
//	for batch := range joiner {
//		engine.Pass(batch)                   // follows changes, puts rows in place of marks, writes the ledger
//		publish(batch)                       // durable
//		engine.Published()                   // what was intended is true now
//	}
//	engine.Close()
//
// # A job
//
//	requested ──plan──► planned ──begin mark──► prepared ──tables join──► copying ──chunks, end mark──► done
//
//	requested   written by others, who may change and cancel it
//	planned     the tables are known; the begin mark is written into the first shard's WAL. On a stream in which nothing is
//	            yet it is not: it is the stream's first transaction, CSN 1
//	prepared    the begin mark is in the stream: readers take changes of the tables leniently. Tables that join are added
//	            to the publications only now, so no reader gets a change of them before
//	copying     a part (a table on a shard) has a ledger once it is being followed; chunks come
//	done        the end mark is in the stream: the tables are on a target what they are on the source at that CSN
//
// One job is at work at a time. A chunk is on its way like this:
//
//	  reader of the shard                       publisher
//	Begin(id) ─► snapshot ─► Taken(id) ─► rows
//	High mark into the WAL ─ ─ ─ ─ ─ ─ ─ ─ ─ ► comes at its place in the order
//	                                            fold: the rows as they are at this place
//	                                            ledger: intent (position of the mark, what the ledger becomes)
//	                                            publish: the rows in place of the mark
//	                                            the ledger is what was intended
//
// # Why a target is right at the end mark
//
// A row that is in a chunk is right at the chunk's place: package fold. What was not followed is visible to every snapshot:
// a shard's parts are followed first, and then every transaction that had written anything by then is waited for, the
// prepared ones too; only then the first snapshot is taken. This holds for a publication that has just got a table as well,
// and for a node that goes on where another one was: the tables of its ledgers are followed before its first batch.
//
// A row that is in no chunk was not there when the snapshot of its range was taken, so it came by a change behind it, and that
// is in the stream with all its values; or it got its key by an update of a row that a target may not have. These keys are in the
// ledger (Redo) before the update is in the stream, and are read again, by a snapshot that sees the update. So the ledger of a
// part is done only when every range was copied and no key is left.
//
// # Crashes
//
// Everything is in the ledger, in the job, and in the stream's checkpoint. An intent names the position of its mark. The
// mark is alone in its unit, so the checkpoint has reached the position exactly if the unit is in the stream; who takes the
// stream over reads the checkpoint after the writer before was shut out, so what it says is final. Then every ledger that is
// not done is written once more: by compare-and-swap, so the writer before cannot write it any more, either.
//
//	the process dies           the next one finds                   and does
//	─────────────────────────────────────────────────────────────────────────────────────────────────────────────────
//	before the plan            requested                            plans
//	planned                    planned, no begin in the stream      writes the begin mark
//	begin mark written         planned; the mark comes              as if it had written it; one that comes twice, or
//	                                                                late, loses its meaning before readers see it
//	begin intended             planned, intent not reached          writes the begin mark (on a new stream: the same first
//	                                                                transaction)
//	begin published            planned, intent reached              prepared
//	tables joined              prepared                             joins them again, which changes nothing
//	some ledgers made          copying, some ledgers                makes the others
//	chunk read                 its range not advanced               reads it again
//	its mark written           a mark of a chunk that it does not   reads it again; the mark stays what it is and means
//	                           know                                 nothing
//	keys written to Redo       keys; the update comes again         reads the keys, though perhaps nothing happened
//	chunk intended             intent not reached                   as before the intent: reads it again
//	chunk published            intent reached                       goes on behind it
//	all parts done             copying                              writes the end mark
//	end mark written           copying; the mark comes              as if it had written it, and its own as well
//	end intended               copying, intent not reached          writes the end mark
//	end published              copying, intent reached              done
//
// A NATS server that does not sync what it acknowledges may lose the end of the stream and keep more of what is written here. So
// jobs and ledgers hold the positions of the marks that they count: what the checkpoint is not behind is taken back, and parts of
// which rows were lost begin anew.
//
// A shard that lags makes marks come late, and nothing else: what was read is in memory until then, within bounds, and no
// more is read. A chunk that cannot be folded, because the changes meanwhile are too many to be kept, is read again.
//
// A table without a key is one chunk for each shard. Its rows are in a file of the node until their mark comes. A shard that does
// not have the table gets an empty one, by a snapshot that proves it: the table may come there while others copy theirs, and
// what is inserted then would be left out by readers, which wait for the shard's rows. A table with a key needs nothing of the
// kind: whatever is inserted counts from the begin mark on.
//
// # Bounds
//
// In memory per subscription: 64 MB of chunks, or half of memory_bytes_max, and as much of changes that are noted. One chunk
// may exceed it: a row is never cut. On disk: spill_bytes_max of tables without a key. In a ledger: some thousand keys to copy
// again; more, and the part begins anew. In a job: as many tables as fit a message of NATS, compressed; with the usual 1 MB that
// is tens of thousands. More, and the job fails. A write that NATS does not take is tried again for a minute before the capture begins anew.
package copying
