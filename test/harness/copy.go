package harness

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

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
	if spec.Format != "" {
		args = append(args, "--format", spec.Format)
	}
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
	text := c.Cdcctl("verify", c.Sub.Name, "-o", "json")
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
