// Package harness is what end-to-end tests share: real PostgreSQL servers, a NATS server and cdcd as processes that can be
// killed, stopped and continued, and a bank (package bank) whose laws the target must obey at every moment.
//
//	func TestMain(m *testing.M) { harness.Main(m) }        // builds the programs, starts the servers, removes all
//
//	c := harness.New(t, harness.Options{})                 // fresh databases on the servers, a NATS, a subscription
//	node, worker := c.Node(), c.Apply()
//	b := c.OpenBank(bank.Config{…})                        // accounts loaded; the traffic runs, the target is watched
//	…faults…
//	c.Finish(b)                                            // traffic ends; source = target; the stream holds each once
//
// The servers are started once for all tests of a package, which therefore run one after the other; databases, NATS and
// subscriptions are each test's own. Nothing here sleeps: every wait is for a condition, and ends with the test's deadline.
//
// CDC_TEST_CDCD names a cdcd to test instead of the one built from this tree.
package harness
