package control_test

import (
	"errors"
	"reflect"
	"testing"

	"shardcdc/pipeline/control"
)

// Jobs and ledgers are written by compare-and-swap: who read before somebody else wrote has lost, and keeps knowing what it
// read.
func TestCopiesAreTaken(t *testing.T) {
	ctx, bus := newBus(t)
	copies, err := control.OpenCopies(ctx, bus.JS, 1)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(err)
	job := control.NewCopyJob(control.CopyResync, []control.CopyTableName{{Schema: "public", Name: "t"}}, "merge", "me@here")
	must(copies.PutJob(ctx, "bank", job))
	again := *job
	again.Revision = 0
	if err := copies.PutJob(ctx, "bank", &again); !errors.Is(err, control.ErrTaken) || again.Revision != 0 {
		t.Fatalf("the job made twice: %v", err)
	}
	table := &control.CopyTable{Job: job.ID, Shard: "a", Schema: "public", Name: "t", Keyed: true, Key: []string{"id"}, Ranges: []control.CopyRange{{Through: []string{"7"}}, {After: []string{"7"}}}}
	must(copies.PutTable(ctx, "bank", 0, table))
	read, err := copies.Table(ctx, "bank", job.ID, "a", 0)
	must(err)
	if !reflect.DeepEqual(read, table) {
		t.Fatalf("read %+v, wrote %+v", read, table)
	}
	must(copies.PutTable(ctx, "bank", 0, read))
	old := table.Revision
	if err := copies.PutTable(ctx, "bank", 0, table); !errors.Is(err, control.ErrTaken) || table.Revision != old {
		t.Fatalf("written behind somebody else: %v, revision %d, was %d", err, table.Revision, old)
	}
	jobs, err := copies.Jobs(ctx, "bank")
	must(err)
	if len(jobs) != 1 || jobs[0].Revision != job.Revision || jobs[0].ID != job.ID {
		t.Fatalf("%+v, want %+v", jobs, job)
	}
	all, err := copies.Tables(ctx, "bank", job.ID)
	must(err)
	if len(all) != 1 || all[0].Revision != read.Revision {
		t.Fatalf("%+v", all)
	}
	if none, err := copies.Job(ctx, "bank", "other"); none != nil || err != nil {
		t.Fatalf("%+v, %v", none, err)
	}
}

// A list has every key, also those that are written at this moment.
func TestListsWhileWritten(t *testing.T) {
	ctx, bus := newBus(t)
	copies, err := control.OpenCopies(ctx, bus.JS, 1)
	if err != nil {
		t.Fatal(err)
	}
	const jobs = 5
	written := make(chan error, jobs)
	stop := make(chan struct{})
	for range jobs {
		job := control.NewCopyJob(control.CopyResync, nil, "merge", "me@here")
		if err := copies.PutJob(ctx, "bank", job); err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				select {
				case <-stop:
					written <- nil
					return
				default:
				}
				if err := copies.PutJob(ctx, "bank", job); err != nil {
					written <- err
					return
				}
			}
		}()
	}
	for range 300 {
		list, err := copies.Jobs(ctx, "bank")
		if err != nil || len(list) != jobs {
			t.Errorf("%d jobs, want %d, %v", len(list), jobs, err)
			break
		}
	}
	close(stop)
	for range jobs {
		if err := <-written; err != nil {
			t.Error(err)
		}
	}
}
