// Package cli is what the commands cdcd and cdcctl have in common: settings, logging, exit codes, and the
// connection to NATS.
package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// Every setting is a flag; the environment and the configuration file set flags that were not given. The flag
// --nats-store is CDC_NATS_STORE in the environment and nats_store in the file.

// EnvName is the environment variable of a flag.
func EnvName(flag string) string {
	return "CDC_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Key is the configuration key of a flag.
func Key(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// notSettings are flags that only make sense on a command line.
var notSettings = []string{"help", "config", "version"}

const typedOnly = "typed only"

// TypedOnly marks flags that neither the environment nor the configuration file set: of a command that changes what exists.
func TypedOnly(set *pflag.FlagSet, names ...string) {
	for _, name := range names {
		if err := set.SetAnnotation(name, typedOnly, nil); err != nil {
			panic(err) // there is no such flag
		}
	}
}

// Load fills the command's flags that were not given from the environment, then from the configuration file
// named by --config. known lists the flags of every command of the program: the file may set those that this
// command does not have, but no others.
func Load(cmd *cobra.Command, known []*pflag.FlagSet) error {
	file, err := readConfig(cmd, known)
	if err != nil {
		return err
	}
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		_, typed := f.Annotations[typedOnly]
		if f.Changed || typed || slices.Contains(notSettings, f.Name) {
			return
		}
		if v, ok := os.LookupEnv(EnvName(f.Name)); ok {
			if err := cmd.Flags().Set(f.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s: %w", EnvName(f.Name), err))
			}
			return
		}
		for _, v := range file[Key(f.Name)] {
			if err := cmd.Flags().Set(f.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("configuration key %s: %w", Key(f.Name), err))
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		return UsageError{err}
	}
	return nil
}

// readConfig reads the file as keys with one or several values.
func readConfig(cmd *cobra.Command, known []*pflag.FlagSet) (map[string][]string, error) {
	flag := cmd.Flags().Lookup("config")
	if flag == nil {
		return nil, nil
	}
	name := flag.Value.String()
	if name == "" {
		name = os.Getenv("CDC_CONFIG")
	}
	if name == "" {
		return nil, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, UsageError{fmt.Errorf("configuration: %w", err)}
	}
	var doc map[string]any
	if err := yaml.NewDecoder(bytes.NewReader(b)).Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, UsageError{fmt.Errorf("configuration %s: %w", name, err)}
	}
	keys := keysOf(known)
	values := map[string][]string{}
	var errs []error
	for key, v := range doc {
		if !slices.Contains(keys, key) {
			errs = append(errs, unknownKey(name, key, keys))
			continue
		}
		list, ok := v.([]any)
		if !ok {
			list = []any{v}
		}
		for _, item := range list {
			if _, nested := item.(map[string]any); nested {
				errs = append(errs, fmt.Errorf("configuration %s: key %s: want a value or a list of values", name, key))
				continue
			}
			values[key] = append(values[key], fmt.Sprint(item))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, UsageError{err}
	}
	return values, nil
}

func keysOf(known []*pflag.FlagSet) []string {
	var keys []string
	for _, set := range known {
		set.VisitAll(func(f *pflag.Flag) {
			if !slices.Contains(notSettings, f.Name) {
				keys = append(keys, Key(f.Name))
			}
		})
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func unknownKey(file, key string, keys []string) error {
	best, distance := "", 4
	for _, k := range keys {
		if d := editDistance(key, k); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return fmt.Errorf("configuration %s: unknown key %q. Known are: %s", file, key, strings.Join(keys, ", "))
	}
	return fmt.Errorf("configuration %s: unknown key %q. Did you mean %q?", file, key, best)
}

// editDistance is the number of characters to insert, delete or replace (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
