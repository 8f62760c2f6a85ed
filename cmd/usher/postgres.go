package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"usher/internal/postgres"
)

// exitStatus is the exit code of a command we ran for somebody.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func postgresCommand() *cobra.Command {
	var dir string
	var volatile bool
	cmd := &cobra.Command{
		Use:   "postgres [flags] -- COMMAND [ARGUMENTS]",
		Short: "Run a command with a private PostgreSQL",
		Long: `Starts a private PostgreSQL, runs the command with its address in
DATABASE_URL and USHER_TEST_DATABASE_URL, stops the server, and exits as the
command did.`,
		Example: "  usher postgres --volatile --dir .usher/test -- go test ./...",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("name a command after --, see 'usher postgres --help'")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			// Ctrl-C reaches the command too; the server outlives it.
			server, err := postgres.StartServer(cmd.Context(), postgres.ServerOptions{
				Dir: dir, Programs: programsDir, Volatile: volatile, Temporary: volatile,
				Progress: func(step string) { fmt.Fprintln(os.Stderr, step) },
			})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, server.Stop()) }()
			url := server.URL("postgres")
			child := exec.Command(args[0], args[1:]...)
			child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
			child.Env = append(os.Environ(), "DATABASE_URL="+url, "USHER_TEST_DATABASE_URL="+url)
			// What is sent to us alone is passed on: the command ends, then the server.
			terminated := make(chan os.Signal, 1)
			signal.Notify(terminated, syscall.SIGTERM)
			if err := child.Start(); err != nil {
				return fmt.Errorf("run %s: %w", args[0], err)
			}
			go func() {
				for s := range terminated {
					_ = child.Process.Signal(s) // it may have ended meanwhile
				}
			}()
			err = child.Wait()
			signal.Stop(terminated)
			close(terminated)
			var exited *exec.ExitError
			if errors.As(err, &exited) {
				return exitStatus(max(1, exited.ExitCode()))
			}
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", stateDir+"/postgres", "where the server keeps its data")
	cmd.Flags().BoolVar(&volatile, "volatile", false, "do not wait for the disk, and remove the data in the end")
	return cmd
}
