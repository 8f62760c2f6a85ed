package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the stand-in costs at 3,000 mails a second in batches of 100, with
// 50 ms latency and a journal: the metric is the share of one core. It must
// leave the machine to what is measured against it.
func BenchmarkCost(b *testing.B) {
	const perSecond, batch, kilobytes, seconds = 3000, 100, 4, 5
	p := startProcess(b, filepath.Join(b.TempDir(), "journal"), "-latency", "50ms", "-rate", "100000")
	letter := `"<p>` + strings.Repeat(`A letter of some length, with <b>tags<\/b> and \"quotes\".\n`, kilobytes*1024/60) + `"`
	var wg sync.WaitGroup
	tick := time.NewTicker(time.Second * batch / perSecond)
	defer tick.Stop()
	for i := range seconds * perSecond / batch {
		<-tick.C
		wg.Go(func() {
			items := make([]string, batch)
			for n := range items {
				items[n] = strings.Replace(with("html", letter), "{", fmt.Sprintf(`{"tags":[{"name":"message_id","value":"m-%d-%d"}],`, i, n), 1)
			}
			res, err := p.do("POST", "/emails/batch", "["+strings.Join(items, ",")+"]", "Idempotency-Key", fmt.Sprint(i))
			if err != nil || res.StatusCode != http.StatusOK {
				b.Error(res.Status, err)
			}
		})
	}
	wg.Wait()
	p.must("GET", "/_admin/events?type=none&quiet=true&wait=10s", "")
	if err := p.stdin.Close(); err != nil {
		b.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	cpu := p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	b.ReportMetric(cpu.Seconds()/seconds, "cores")
	b.ReportMetric(0, "ns/op")
}
