// Command usher is all of Usher: the web front, the workers, the migrations,
// and the operator's hand tools. The Procfile picks the subcommand.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker for releases.
var version = "development"

// Exit codes.
const (
	exitFailure = 1 // it was tried and did not work
	exitUsage   = 2 // it was asked for in a way that cannot work
	exitUnknown = 3 // nothing is known of what was asked about
)

// usageError is an error in what was asked for.
type usageError struct{ error }

// unknownError tells that nothing is known of what was asked about.
type unknownError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:]))
}

// run executes one command line and gives the exit code.
func run(ctx context.Context, args []string) int {
	root := &cobra.Command{
		Use:           "usher",
		Short:         "Usher runs the life of invitations",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // group answers them
		RunE:          group,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see '%s --help'", err, cmd.CommandPath())}
	})
	root.AddCommand(
		runCommand(), webCommand(), workerCommand(), migrateCommand(),
		appsCommand(), keysCommand(), whyCommand(), mailCommand(), sweepCommand(), openAPICommand(), postgresCommand(),
	)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	fmt.Fprintln(os.Stderr, "usher: "+err.Error())
	var usage usageError
	var unknown unknownError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &unknown):
		return exitUnknown
	}
	return exitFailure
}

// group is what a command does that only holds others: it shows its help, and
// refuses a word that is none of them.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return usageError{fmt.Errorf("%s has no command %q; did you mean %q? See '%[1]s --help'", cmd.CommandPath(), args[0], nearest(args[0], names))}
}

// noArgs refuses arguments of commands that take none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no arguments; see '%s --help'", cmd.CommandPath(), cmd.CommandPath())}
	}
	return nil
}
