package mail

const (
	Queued     State = "queued"
	Held       State = "held"
	Delayed    State = "delayed"
	Delivered  State = "delivered"
	Bounced    State = "bounced"
	Complained State = "complained"
	Suppressed State = "suppressed"
	Cancelled  State = "cancelled"
)

const tagMessage = "message_id"
