// Package throwaway starts PostgreSQL servers that are thrown away afterwards: for the demo, and for tests that
// want the real thing instead of an imitation.
//
//	s, err := throwaway.Start(ctx, throwaway.Options{Name: "a"})
//	defer s.Close()
//	conn, err := pgx.Connect(ctx, s.DSN())
//	...
//	s.Stop(ctx, throwaway.Kill)   // as if the power had failed
//	s.Start(ctx)                  // crash recovery, same port
//
// A server is a cluster made by initdb in a folder of its own, a port of its own on 127.0.0.1, and a postmaster that is
// a child of this process. Its life:
//
//	Start ──► running ──Stop──► stopped ──Start──► running        Close, from any state ──► gone, folder removed
//	             │  ▲
//	        Pause│  │Resume     (SIGSTOP and SIGCONT for every process of the server)
//	             ▼  │
//	            paused
//
// # Promised
//
//   - Durability is PostgreSQL's own: fsync stays on. What a client saw committed is there after Stop with any mode.
//     (Only initdb itself skips its fsync; a crash of the whole machine may leave a folder nobody wants any more.)
//   - Every server has a system identifier of its own, as real shards have. So every server gets its own initdb,
//     about a second of work; a copied folder would be faster and wrong. [StartMany] runs them in parallel.
//   - The settings are right for capture: wal_level=logical, prepared transactions, enough slots and walsenders.
//   - Nothing is left behind, whatever ends this process; see the next section.
//   - A server listens on 127.0.0.1 only and trusts whoever comes: every user of this machine is its superuser.
//
// # Why nothing is left behind
//
// Close ends the server and removes its folder. For a process that ends without Close (a panic, kill -9, a test's
// timeout) there are two nets:
//
//  1. On Linux the kernel sends the postmaster SIGQUIT (PostgreSQL's immediate shutdown) when its parent dies; package
//     child says how.
//  2. The folder's name carries its owner's process id, and the owner holds a lock (flock) on a file inside. Every Start
//     removes the folders in the same parent folder whose owner is dead, and kills a postmaster that still runs in one
//     (other systems than Linux, where net 1 does not exist).
//
// [StartMariaDB] starts a MariaDB server in the same way, for targets of that kind; net 1 is kill -9 there.
//
// PostgreSQL refuses to run as root. A process of root runs its servers as user postgres, or nobody, and gives them
// the folder.
package throwaway
