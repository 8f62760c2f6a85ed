package roster

import "testing"

func TestSuggestAddress(t *testing.T) {
	t.Parallel()
	for typed, want := range map[string]string{
		"ann@gmial.com":       "ann@gmail.com", // swapped
		"ann@gamil.com":       "ann@gmail.com",
		"ann@gmai.com":        "ann@gmail.com", // missing
		"ann@gmaill.com":      "ann@gmail.com", // added
		"ann@gnail.com":       "ann@gmail.com", // replaced
		"ann@gmail.con":       "ann@gmail.com",
		"ann@gmail.co":        "ann@gmail.com",
		"ann@gmail.cm":        "ann@gmail.com",
		"ann@gmailcom":        "ann@gmail.com",
		"A.Nn+x@GMIAL.com":    "A.Nn+x@gmail.com", // the rest stays as typed
		"ann@hotmial.com":     "ann@hotmail.com",
		"ann@hotmail.coo.uk":  "ann@hotmail.co.uk",
		"ann@outlok.es":       "ann@outlook.es",
		"ann@yaho.fr":         "ann@yahoo.fr",
		"ann@iclod.com":       "ann@icloud.com",
		"ann@telefonica.et":   "ann@telefonica.net",
		"ann@gmail.com":       "", // as it should be
		"ann@hotmail.es":      "",
		"ann@mail.com":        "", // real neighbours
		"ann@email.com":       "",
		"ann@ymail.com":       "",
		"ann@yahoo.se":        "",
		"ann@yahoo.de":        "",
		"ann@yahoo.ca":        "",
		"ann@hotmail.it":      "",
		"ann@gail.com.es":     "", // two slips
		"ann@gml.com":         "",
		"ann@gmialc.om":       "",
		"ann@example.org":     "",
		"ann@mail.gmial.com":  "",
		"ann@greenvalley.dev": "",
		"gmial.com":           "",
		"@gmial.com":          "",
		"":                    "",
	} {
		if have := SuggestAddress(typed); have != want {
			t.Errorf("%s: %q, want %q", typed, have, want)
		}
	}
}
