package mail

const (
	Delayed    State = "delayed"
	Delivered  State = "delivered"
	Bounced    State = "bounced"
	Complained State = "complained"
	Suppressed State = "suppressed"
)

const tagMessage = "message_id"
