package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"shardcdc/apply"
	"shardcdc/pipeline"
	"shardcdc/pipeline/control"
	"shardcdc/pipeline/subscribe"
)

// Copy says what a subscription does with the rows that the tables hold when it is made.
type Copy string

const (
	NoCopy       Copy = ""         // leaves them out
	CopyToEmpty  Copy = "fail"     // copies them to tables that must be empty
	CopyTruncate Copy = "truncate" // empties the target's tables first
	CopyMerge    Copy = "merge"    // keeps the rows that the target has
)

// subscribeWithCopy makes the subscription as a person does.
func (c *Cluster) subscribeWithCopy(spec subscribe.Spec) {
	c.t.Helper()
	args := []string{"create-subscription", spec.Name, "--copy-data=true", "--if-target-has-rows", string(c.options.Copy), "--nats-replicas", strconv.Itoa(len(c.peers))}
	for _, s := range spec.Shards {
		args = append(args, "--shard", s.Name+"="+s.DSN)
	}
	for _, t := range spec.Targets {
		args = append(args, "--target", t.Name+"="+t.DSN)
	}
	for _, p := range spec.Tables {
		args = append(args, "--tables", p)
	}
	if spec.Format.Name != "" {
		args = append(args, "--format", spec.Format.Name)
	}
	if spec.CreateTables {
		args = append(args, "--create-tables")
	}
	args = append(args, c.options.CopyArgs...)
	if spec.Retain != 0 {
		args = append(args, "--retain", spec.Retain.String())
	}
	c.Do(args...)
	catalog, err := control.OpenCatalog(c.Ctx, c.Bus.JS, c.Bus.Replicas)
	if err != nil {
		c.t.Fatal(err)
	}
	entry, err := catalog.Get(c.Ctx, spec.Name)
	if err != nil {
		c.t.Fatal(err)
	}
	c.Sub = entry.Subscription
}

// Verdict is what cdcctl verify says.
type Verdict struct {
	Verdict string `json:"verdict"`
	Tables  []struct {
		Table   string          `json:"table"`
		Verdict string          `json:"verdict"`
		Problem string          `json:"problem"`
		Rows    json.RawMessage `json:"rows"`
	} `json:"tables"`
}

// ProvesEqual lets cdcctl verify compare source and target.
func (c *Cluster) ProvesEqual() {
	c.t.Helper()
	text := c.Cdcctl("verify", c.Sub.Name, "--target", TargetName, "-o", "json")
	var v Verdict
	if err := json.NewDecoder(strings.NewReader(text[max(strings.Index(text, "{"), 0):])).Decode(&v); err != nil {
		c.t.Fatalf("cdcctl verify: %v: %s", err, text)
	}
	for _, table := range v.Tables {
		if table.Verdict != "equal" {
			c.t.Errorf("cdcctl verify: table %s %s: %s %s", table.Table, table.Verdict, table.Problem, table.Rows)
		}
	}
	if v.Verdict != "equal" {
		c.t.Fatalf("cdcctl verify says %q", v.Verdict)
	}
	c.t.Logf("cdcctl verify: %d tables are equal", len(v.Tables))
}

// Do runs cdcctl, which must succeed.
func (c *Cluster) Do(args ...string) string {
	c.t.Helper()
	out, err := c.Try(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// Try runs cdcctl.
func (c *Cluster) Try(args ...string) (string, error) {
	c.t.Helper()
	out, err := c.cdcctl(args...)
	if err != nil {
		return out, fmt.Errorf("cdcctl %v: %w\n%s", args, err, out)
	}
	return out, nil
}

// CopyEnds waits until the copy that runs is in the stream.
func (c *Cluster) CopyEnds() (st control.CopyStatus) {
	c.t.Helper()
	Until(c.Ctx, c.t, "the copy ends", func() (bool, string) {
		all, ok := c.Capture()
		if !ok || all.Copy == nil {
			return false, "no node answers, or it knows of no copy: " + all.Error
		}
		st = *all.Copy
		if st.State == control.CopyFailed {
			c.t.Fatalf("the copy failed: %s", st.Error)
		}
		return st.State == control.CopyDone && st.Queued == 0,
			fmt.Sprintf("%s %s: %d rows of %d, %d of %d parts; %v; node %s %s", st.Kind, st.State, st.Rows, st.RowsEstimate, st.CurrentIndex, st.TotalIndex, st.Waiting, all.State, all.Error)
	})
	return st
}

// Copied waits until so many rows are copied, or the copy has ended: then it returns false.
func (c *Cluster) Copied(rows int64) (more bool) {
	c.t.Helper()
	Until(c.Ctx, c.t, fmt.Sprintf("%d rows are copied", rows), func() (bool, string) {
		st, ok := c.Capture()
		if !ok || st.Copy == nil {
			return false, "no node answers, or it knows of no copy: " + st.Error
		}
		more = !st.Copy.State.Ended()
		return !more || st.Copy.Rows >= rows, fmt.Sprintf("%s, %d are; %v; %s", st.Copy.State, st.Copy.Rows, st.Copy.Waiting, st.Error)
	})
	return more
}

// Consistent waits until the target has everything up to the end of the copy.
func (c *Cluster) Consistent() control.CopyStatus {
	c.t.Helper()
	st := c.CopyEnds()
	if st.ConsistentFrom == 0 {
		c.t.Fatalf("the copy is done, and no csn is named from which on it is consistent: %+v", st)
	}
	Until(c.Ctx, c.t, "the target has the end of the copy", func() (bool, string) {
		worker, ok := c.ApplyStatus()
		return ok && worker.AppliedCSN >= st.ConsistentFrom, fmt.Sprintf("it is at csn %s of %s: %s %s", worker.AppliedCSN, st.ConsistentFrom, worker.State, worker.Error)
	})
	return st
}

// Reads counts the copied rows in the stream, per table.
func (c *Cluster) Reads() map[string]int64 {
	c.t.Helper()
	stream := apply.NewStream(c.Bus.JS, c.Sub.Name)
	info, err := stream.Describe(c.Ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	reader, err := stream.Open(c.Ctx, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer reader.Close()
	counts := map[string]int64{}
	for at := pipeline.Seq(0); at < info.Last; {
		u, err := reader.Next(c.Ctx)
		if err == nil {
			at = u.Seq
			err = u.Finish()
		}
		var abandoned *apply.Abandoned
		if errors.As(err, &abandoned) {
			at = abandoned.Seq
			continue
		}
		if err == nil && u.Unit != nil {
			err = countReads(u, counts)
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
	return counts
}

func countReads(u apply.Unit, counts map[string]int64) error {
	for _, tx := range u.Unit.Transactions {
		for _, f := range tx.Fragments {
			if !f.Ops.Has(pipeline.Read) {
				continue
			}
			if err := f.Walk(func(ch *pipeline.Change) error {
				if ch.Op == pipeline.Read {
					counts[ch.Relation.Namespace+"."+ch.Relation.Name]++
				}
				return nil
			}); err != nil {
				return err
			}
		}
	}
	return nil
}
