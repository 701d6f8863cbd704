package subscribe

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"shardcdc/pipeline/control"
)

// Atomic batches came with this version of the server.
const natsMajorMin, natsMinorMin = 2, 12

// natsReplicas is how many copies a cluster should keep.
const natsReplicas = 3

const varzTimeout = 500 * time.Millisecond

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

// checkSync asks whether an acknowledgement survives a power failure. Only the system account may ask.
func checkSync(ctx context.Context, bus *control.Bus, version string) Finding {
	ctx, cancel := context.WithTimeout(ctx, varzTimeout)
	defer cancel()
	reply, err := bus.NC.RequestWithContext(ctx, "$SYS.REQ.SERVER."+bus.NC.ConnectedServerId()+".VARZ", nil)
	if err != nil {
		return Finding{
			Severity: Info, About: "NATS",
			What: fmt.Sprintf("nats-server %s answers; whether it syncs before it acknowledges cannot be asked by this user. The server that cdcd all runs does", version),
			Try:  "make sure that an external server has jetstream { sync_interval: always } in its configuration; without it run cdcd node with --nats-durability lazy",
		}
	}
	var varz struct {
		Data struct {
			JetStream struct {
				Config struct {
					SyncAlways   bool          `json:"sync_always"`
					SyncInterval time.Duration `json:"sync_interval"`
				} `json:"config"`
			} `json:"jetstream"`
		} `json:"data"`
	}
	if err := json.Unmarshal(reply.Data, &varz); err != nil {
		return Finding{Severity: Warning, About: "NATS", What: fmt.Sprintf("the server's answer about its settings is no JSON: %v", err), Try: "jetstream { sync_interval: always }"}
	}
	if c := varz.Data.JetStream.Config; !c.SyncAlways {
		return Finding{
			Severity: Warning, About: "NATS", What: fmt.Sprintf("it acknowledges before it syncs (every %s): a power failure may take acknowledged messages", c.SyncInterval),
			Try: "jetstream { sync_interval: always } in its configuration, or cdcd node --nats-durability lazy",
		}
	}
	return Finding{Severity: Info, About: "NATS", What: fmt.Sprintf("nats-server %s syncs before it acknowledges", version)}
}
