// Package files is the apply.Target for a folder of files: statements or JSON texts, as an Encoder writes them, whole transactions one
// behind the other.
//
//	00000000000000000000.sql      transactions behind CSN 0
//	00000000000000000000.index    where each commit's are in it; the progress
//	03469010534391808000.sql      those behind CSN 3469010534391808000
//	03469010534391808000.index
//	progress.json                 the progress, when it moved without transactions
//	owner.lock                    held by the process that writes
//
// What the files are for their readers stands in docs/files.md.
//
// # The commit point
//
//	Open:   take the folder's lock; read the newest index; cut it and its file behind the last whole entry
//	Apply:  file:   append what the encoder made of the transactions; fsync
//	        index:  append one line: offset, length, checksum, CSNs, progress; fsync      -- THE commit point
//
// What is behind the last entry's end was never committed, and is cut off by the next Open. So a crash at any place leaves a folder that
// has each transaction once, or not yet, and first start and recovery are the same code. A group without transactions moves only the
// progress: progress.json is replaced (written apart, fsync, rename, fsync of the folder), and counts while the index is as long as
// it says.
//
// A new file begins when the present one is large or old enough. Its name is the CSN behind which its transactions are, so names sort as
// CSNs do, and making it again after a crash makes the same one. Its index is written apart and renamed, with a head that has the
// progress: an index that exists begins with a whole head, and no other file is needed to go on. That is why readers may take away all
// files but the newest.
//
// # What a failed fsync leaves
//
// After an fsync that failed the kernel may hold pages as clean that never reached the disk. The session ends then. The next Open writes
// the index's last line once more, the same bytes at the same place, before it syncs and believes it; and what is behind is cut off
// and written anew.
//
// # The fence
//
// The lock is flock on owner.lock (package owner): the kernel lets go of it when the process ends, in whatever way, and not before. A
// worker that stands still keeps it, so nobody else can write meanwhile. It has to be a folder of this machine, or of a file system
// whose flock holds between machines.
//
// # Large transactions
//
// They are read to their end first (Streams says no), because an encoder may need to know a transaction whole, and then written piece by
// piece.
//
// # Copies
//
// Marks are written as the encoder writes them. Which tables are being copied, and of those without a key the shards whose rows have
// come, is in the index as well, where it changed: a new encoder, after a restart and for each new file, is told.
package files
