package mail

// How a mail is sent once
//
// An action's transaction stores a message: whom it is for and what it is
// about, not what it says. It also wakes the composer, by a job.
//
// The composer (Take, Freeze) claims messages that are due, has each checked
// against its subject, written, and frozen: one dispatch holds the bytes of one
// request to the provider, with 1 to maxBatch mails. Its id is the request's
// Idempotency-Key. Bytes and members never change from here on.
//
// The sender waits for its slot (Pace), opens an attempt (Begin), posts the
// bytes, and records the answer (Settle and its sisters) together with the
// job's end.
//
//	the process dies …           then
//	before Freeze commits        the messages are still queued
//	before Begin commits         the next attempt is the first
//	after Begin                  the attempt stays unknown: the next one posts
//	                             the same bytes under the same key, and the
//	                             provider answers with the first mail's id
//	after Settle commits         it is done
//
// A dispatch counts its attempts whose outcome nobody knows. While there are
// none, the provider has sent nothing of it for certain: it may be dissolved,
// its messages written anew into another dispatch, under another key. While
// there are some, only the same bytes under the same key are safe, and that
// only as long as the provider remembers the key. After replayFor the dispatch
// becomes uncertain, and a webhook, the provider's list of mails, or an
// operator says what became of it.
//
// Few dispatches are open at a time (window), so that what is written is sent
// soon and what waits is still checked late, and so that a busy lane fills its
// dispatches by itself: while one is under way, the next one's mails gather.
