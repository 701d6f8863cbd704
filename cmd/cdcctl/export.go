package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"shardcdc/cmd/cli"
	"shardcdc/pipeline"
	"shardcdc/pipeline/archive"
)

// exported is the JSON form of the result.
type exported struct {
	Subscription string       `json:"subscription"`
	File         string       `json:"file"`
	FileBytes    int64        `json:"file_bytes"`
	First        pipeline.Seq `json:"first_seq"`
	archive.End
}

func exportCommand() *cobra.Command {
	var (
		where   stored
		out     output
		to      string
		f, upTo string
	)
	cmd := &cobra.Command{
		Use:   "export [NAME] --to FILE",
		Short: "Write a range of a subscription's stream into a file",
		Long: `Writes the messages of a subscription's stream into a new file, in whole units: to carry them where no network leads
(cdcctl import), or to look at them later (cdcctl tail --file). Without --from-csn from the stream's beginning, without
--to-csn to its present end. What is published meanwhile is not in the file.

The file is packed and has checksums. It gets its name when it is whole and on the disk; a command that was killed leaves FILE.part,
which the next one writes over; one that still writes it keeps others out. It holds the rows, the names of tables and shards and the subscription's settings, and no
DSN: keep it as you keep the rows.

Of a series of files each begins with --from-csn and the CSN that the one before ended with: they overlap by a unit, which import
passes over.

Exit codes: 0 written; 1 nothing was written, and why; 2 called in a wrong way.`,
		Example: "  cdcctl export bank --to bank-1.cdc\n  cdcctl export bank --to bank-2.cdc --from-csn 3469010534391808000\n  cdcctl export bank --store /backup/nats --to bank.cdc",
		Args:    where.args(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := out.json()
			if err != nil {
				return err
			}
			if to == "" {
				return cli.Usagef("where to write is not clear. Try: --to FILE")
			}
			var r archive.Range
			if r.From, err = csnFlag("from-csn", f); err != nil {
				return err
			}
			if r.To, err = csnFlag("to-csn", upTo); err != nil {
				return err
			}
			return where.open(cmd, firstArg(args, 0), func(ctx context.Context, s *storedStream) error {
				head, end, err := archive.Export(ctx, s.source, s.sub, to, r)
				if errors.Is(err, archive.ErrNothing) {
					return fmt.Errorf("%w. Try: cdcctl status %s, or another range", err, s.sub.Name)
				}
				if err != nil {
					return err
				}
				info, err := os.Stat(to)
				if err != nil {
					return err
				}
				e := exported{Subscription: s.sub.Name, File: to, FileBytes: info.Size(), First: head.First, End: end}
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), e)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: stream sequence %d to %d (%d messages, %s) up to csn %s, in %s.\nThe next file: cdcctl export %s --from-csn %s --to …\n",
					to, e.First, e.Last, e.Messages, bytesText(e.Bytes), e.CSN, bytesText(e.FileBytes), e.Subscription, e.CSN)
				return err
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&to, "to", "", "the file; it must not exist")
	fl.StringVar(&f, "from-csn", "", "begin with the unit that has the first transaction of this CSN or a higher one")
	fl.StringVar(&upTo, "to-csn", "", "end with the unit that has the last transaction of this CSN or a lower one")
	out.add(fl)
	where.add(fl)
	return cmd
}
