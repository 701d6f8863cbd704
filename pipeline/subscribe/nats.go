package subscribe

import (
	"context"
	"fmt"

	"shardcdc/pipeline/control"
)

// Atomic batches came with this version of the server.
const natsMajorMin, natsMinorMin = 2, 12

// natsReplicas is how many copies a cluster should keep.
const natsReplicas = 3

func checkNATS(ctx context.Context, bus *control.Bus) []Finding {
	about := "NATS"
	version := bus.NC.ConnectedServerVersion()
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return []Finding{faultf(about, "nats-server 2.12 or newer", "the server's version %q is unknown", version)}
	}
	var findings []Finding
	if major < natsMajorMin || major == natsMajorMin && minor < natsMinorMin {
		findings = append(findings, faultf(about, "upgrade it to 2.12 or newer", "nats-server %s has no atomic batches", version))
	}
	if _, err := bus.JS.AccountInfo(ctx); err != nil {
		return append(findings, faultf(about, "start nats-server with -js, and enable it for the account", "JetStream does not answer: %v", err))
	}
	cluster := bus.NC.ConnectedClusterName()
	switch {
	case cluster == "" && bus.Replicas > 1:
		findings = append(findings, faultf(about, "--nats-replicas 1", "%d replicas are asked for, and the server is in no cluster", bus.Replicas))
	case cluster != "" && bus.Replicas < natsReplicas:
		findings = append(findings, Finding{
			Severity: Warning, About: about, Try: "--nats-replicas 3",
			What: fmt.Sprintf("in cluster %s the stream would have %d replica: the loss of one server stops it, or loses it", cluster, bus.Replicas),
		})
	}
	return append(findings, checkSync(ctx, bus, version))
}

// checkSync asks whether an acknowledgement survives a power failure.
func checkSync(ctx context.Context, bus *control.Bus, version string) Finding {
	d, err := bus.Durability(ctx)
	switch {
	case err != nil:
		return Finding{Severity: Warning, About: "NATS", What: err.Error(), Try: "jetstream { sync_interval: always } in its configuration"}
	case !d.Known:
		return Finding{
			Severity: Info, About: "NATS",
			What: fmt.Sprintf("nats-server %s answers; whether it syncs before it acknowledges cannot be asked by this user", version),
			Try:  "make sure that it has jetstream { sync_interval: always } in its configuration, and run cdcd node with --nats-durability always; else positions are confirmed to the shards four minutes late",
		}
	case !d.Always:
		return Finding{
			Severity: Warning, About: "NATS", What: fmt.Sprintf("it acknowledges before it syncs (every %s): a power failure may take acknowledged messages", d.Interval),
			Try: "jetstream { sync_interval: always } in its configuration, or cdcd node --nats-durability lazy",
		}
	}
	return Finding{Severity: Info, About: "NATS", What: fmt.Sprintf("nats-server %s syncs before it acknowledges", version)}
}
