// Resolves CDI names as a container runtime does: the reference library applies them to an OCI specification.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	oci "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// main prints the specification that a runtime would run: FOLDERS... -- NAMES..., the container's own on stdin.
func main() {
	folders, names := []string{}, []string{}
	for _, word := range os.Args[1:] {
		if word == "--" {
			folders, names = names, []string{}
			continue
		}
		names = append(names, word)
	}
	var spec oci.Spec
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		fail(err)
	}
	cache, err := cdi.NewCache(cdi.WithAutoRefresh(false), cdi.WithSpecDirs(folders...))
	if err != nil {
		fail(err)
	}
	for path, errs := range cache.GetErrors() {
		fail(fmt.Errorf("%s: %v", path, errs))
	}
	if unresolved, err := cache.InjectDevices(&spec, names...); err != nil {
		fail(fmt.Errorf("%w (unresolved: %v)", err, unresolved))
	}
	if err := json.NewEncoder(os.Stdout).Encode(spec); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
