// Package hook sends an app's events to its webhook endpoints, at least once
// each, and keeps what became of them.
//
// Who writes an event queues it, in the same transaction, for the endpoints
// that want it: a row of webhook_delivery, and a job that wakes the endpoint.
// The job claims what is due by a lease, posts it with no transaction open, and
// records the outcomes, fenced by the claim's number. A process that dies
// leaves leases that run out; a sweep each minute wakes whatever is due.
//
// Endpoints share nothing but the process: each has its own few senders and
// takes one job's place at most. One that fails often is left alone for growing
// whiles and then tried with a single webhook; one that takes nothing for three
// days is disabled. While an endpoint is disabled no event is queued for it:
// a replay makes up for that.
//
// The package knows endpoints and events by their rows. Who may change them,
// and which events there are, is the domain's.
package hook
