package roster

import (
	"crypto/sha256"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"usher/internal/locale"
)

// maxWarning bounds a warning's text, in characters: what people read before
// they tick a box fits a screen or two.
const maxWarning = 4000

// externalWarnings are Usher's own texts, by language.
var externalWarnings = map[string]string{
	"en": "This person works outside your company. Once they approve, they see what you share in this workspace, including personal data. Invite them only if you know who they are, if the address is theirs, and if the person whose data this is has agreed. You can archive their access at any time, but not take back what they have already seen.",
	"es": "Esta persona trabaja fuera de su empresa. En cuanto lo apruebe, verá lo que usted le muestre en este espacio, incluidos datos personales. Invítela solo si sabe quién es, si la dirección es suya y si la persona a la que se refieren los datos está de acuerdo. Puede archivar su acceso cuando quiera, pero no retirar lo que ya haya visto.",
	"fr": "Cette personne travaille hors de votre entreprise. Dès qu’elle aura accepté, elle verra ce que vous partagez dans cet espace, y compris des données personnelles. Invitez-la seulement si vous savez qui elle est, si l’adresse est bien la sienne et si la personne concernée par ces données a donné son accord. Vous pouvez archiver son accès à tout moment, mais pas reprendre ce qu’elle a déjà vu.",
}

// ExternalWarning is Usher's own text for people who are about to invite an
// external professional, and its language: the first of those wanted that Usher
// speaks.
func ExternalWarning(wanted ...string) (text, lang string) {
	lang = locale.Match(wanted...)
	return externalWarnings[lang], lang
}

// checkWarning refuses an external professional whose inviter acknowledged
// nothing that can be kept as a proof.
func checkWarning(text string) error {
	switch {
	case strings.TrimSpace(text) == "":
		return invalidField("warning", "warning_not_acknowledged", "Somebody from outside the company is invited only by who read the warning and ticked it. Show it, and send warning.acknowledged as true.")
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0) || utf8.RuneCountInString(text) > maxWarning:
		return invalidField("warning.text", "warning_text_invalid", "The text of the warning is plain text of at most %d characters.", maxWarning)
	}
	return nil
}

// warningTexts are texts that are kept once for each app, under an id that
// follows from both.
type warningTexts struct {
	seen      map[uuid.UUID]bool
	ids, apps []uuid.UUID
	hashes    [][]byte
	texts     []string
}

// add is the id of a text of an app.
func (w *warningTexts) add(app uuid.UUID, text string) *uuid.UUID {
	id := uuid.NewHash(sha256.New(), app, []byte(text), 8)
	if w.seen[id] {
		return &id
	}
	if w.seen == nil {
		w.seen = map[uuid.UUID]bool{}
	}
	hash := sha256.Sum256([]byte(text))
	w.seen[id] = true
	w.ids, w.apps, w.hashes, w.texts = append(w.ids, id), append(w.apps, app), append(w.hashes, hash[:]), append(w.texts, text)
	return &id
}

// stored is the part of the creation's statement that keeps the texts of the
// invitations it inserted; empty where there are none.
func (w *warningTexts) stored() string {
	if len(w.ids) == 0 {
		return ""
	}
	return `), warned AS (
			INSERT INTO warning (id, app_id, hash, text, created_at)
			SELECT id, app_id, hash, text, $19 FROM unnest($30::uuid[], $31::uuid[], $32::bytea[], $33::text[]) AS w (id, app_id, hash, text)
			WHERE EXISTS (SELECT FROM q JOIN inserted USING (id) WHERE q.warning_id = w.id)
			ON CONFLICT DO NOTHING
		`
}

// args are the arguments that stored needs, $30 and on.
func (w *warningTexts) args() []any {
	if len(w.ids) == 0 {
		return nil
	}
	return []any{w.ids, w.apps, w.hashes, w.texts}
}
