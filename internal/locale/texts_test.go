package locale_test

import (
	"html/template"
	"strings"
	"testing"
	"testing/fstest"

	"usher/internal/locale"
)

// catalogue is a complete one; changes replaces whole files.
func catalogue(changes map[string]string) fstest.MapFS {
	files := map[string]string{
		"en.json": `{"hello": "Hello {name},", "open": {"one": "One invitation for {name}", "other": "{count} invitations for {name}"}, "why": "Why?"}`,
		"es.json": `{"hello": "Hola, {name}:", "open": {"one": "Una invitación para {name}", "other": "{count} invitaciones para {name}"}, "why": "¿Por qué?"}`,
		"fr.json": `{"hello": "Bonjour {name},", "open": {"one": "{count} invitation pour {name}", "other": "{count} invitations pour {name}"}, "why": "Pourquoi\u202f?"}`,
	}
	fsys := fstest.MapFS{}
	for name, content := range files {
		if change, ok := changes[name]; ok {
			content = change
		}
		if content != "" {
			fsys[name] = &fstest.MapFile{Data: []byte(content)}
		}
	}
	return fsys
}

func load(t *testing.T) *locale.Texts {
	t.Helper()
	texts, err := locale.LoadTexts(catalogue(nil))
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

func TestPrinter(t *testing.T) {
	t.Parallel()
	texts := load(t)
	for _, test := range []struct{ got, want string }{
		{texts.In("en").T("hello", "name", "Ann {name}"), "Hello Ann {name},"},
		{texts.In("fr-CA").T("hello", "name", "Zoé"), "Bonjour Zoé,"},
		{texts.In("xx").T("why"), "Why?"},
		{texts.In("en").T("open", "count", 1, "name", "Ann"), "One invitation for Ann"},
		{texts.In("en").T("open", "count", 0, "name", "Ann"), "0 invitations for Ann"},
		{texts.In("fr").T("open", "name", "Zoé", "count", 0), "0 invitation pour Zoé"},
		{texts.In("es").T("open", "count", 3, "name", "Luz"), "3 invitaciones para Luz"},
		{string(texts.In("en").Strong("hello", "name", `<b title="x">`)),
			`Hello <strong dir="auto">&lt;b title=&#34;x&#34;&gt;</strong>,`},
		{texts.In("es-MX").Lang() + " " + texts.In("es").Dir(), "es ltr"},
	} {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
}

func TestPrinterRefusesMistakes(t *testing.T) {
	t.Parallel()
	p := load(t).In("en")
	odd := []any{"name"}
	for name, call := range map[string]func(){
		"unknown key":   func() { p.T("helo", "name", "Ann") },
		"data missing":  func() { p.T("hello") },
		"data unknown":  func() { p.T("hello", "name", "Ann", "nam", "Bob") },
		"data odd":      func() { p.T("hello", odd...) },
		"count missing": func() { p.T("open", "name", "Ann") },
		"count no int":  func() { p.T("open", "count", "3", "name", "Ann") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			call()
		}()
	}
	// In a template the same mistake is an error, never an empty page.
	page := template.Must(template.New("page").Parse(`{{.T "helo"}}`))
	if err := page.Execute(&strings.Builder{}, p); err == nil || !strings.Contains(err.Error(), "helo: no such key") {
		t.Errorf("template with an unknown key: got error %v", err)
	}
}

func TestLoadTextsRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, file, content, want string }{
		{"file missing", "fr.json", ``, "fr.json"},
		{"no object", "fr.json", `[]`, "not a JSON object"},
		{"cut off", "fr.json", `{"hello": "Bonjour {name},"`, "fr.json"},
		{"key missing", "fr.json", `{"hello": "Bonjour {name},", "why": "Pourquoi"}`, "text open: missing in fr"},
		{"key too many", "es.json", `{"hello": "Hola {name}", "open": {"one": "{name}", "other": "{count} {name}"}, "why": "x", "who": "y"}`, "text who: missing in en"},
		{"other placeholder", "fr.json", `{"hello": "Bonjour {nom},", "open": {"one": "{name}", "other": "{count} {name}"}, "why": "x"}`, "text hello: placeholders"},
		{"no plural", "fr.json", `{"hello": "Bonjour {name},", "open": "{count} {name}", "why": "x"}`, "text open: plural forms in only one"},
		{"plural form missing", "fr.json", `{"open": {"other": "{count} {name}"}}`, "text open of fr.json: has plural forms"},
		{"plural form unknown", "fr.json", `{"open": {"several": "x", "other": "{count} {name}"}}`, "text open of fr.json"},
		{"key twice", "en.json", `{"why": "Why?", "why": "Why not?"}`, "text why of en.json: is there twice"},
		{"number", "en.json", `{"why": 1}`, "text why of en.json"},
		{"empty", "en.json", `{"why": " "}`, "text why of en.json: is empty"},
		{"stray brace", "en.json", `{"why": "Why {Name}?"}`, "text why of en.json: has a brace"},
		{"markup", "en.json", `{"why": "<b>Why</b>"}`, "text why of en.json: has markup"},
		{"ordinary space", "fr.json", `{"why": "Pourquoi ?"}`, "text why of fr.json: has an ordinary space"},
		{"half a question", "es.json", `{"why": "Por qué?"}`, "text why of es.json"},
	} {
		_, err := locale.LoadTexts(catalogue(map[string]string{test.file: test.content}))
		if test.content == "" {
			fsys := catalogue(nil)
			delete(fsys, test.file)
			_, err = locale.LoadTexts(fsys)
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got error %v, want one with %q", test.name, err, test.want)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	texts := load(t)
	for _, test := range []struct{ template, want string }{
		{`{{.P.T "hello" "name" .Name}}{{$.P.Strong "hello" "name" "x"}}{{.P.T .Key}}`, ""},
		{`{{.P.T "helo" "name" .Name}}`, "helo: no such key"},
		{`{{if .A}}{{else}}{{.P.T "helo"}}{{end}}`, "helo: no such key"},
		{`{{with .A}}{{$.P.Strong "helo"}}{{end}}`, "helo: no such key"},
		{`{{range .A}}{{$.P.T "hello"}}{{end}}`, "text hello: got data for"},
		{`{{if eq (.P.T "hello" "nam" .Name) "x"}}{{end}}`, "text hello: got data for"},
		{`{{.P.T "hello" "name"}}`, "names and values in turn"},
		{`{{.P.T "open" "name" .Name}}`, `want ["count" "name"]`},
		{`{{define "x"}}{{end}}{{template "x" .P.T "helo"}}`, "helo: no such key"},
		{`<a title="{{(index .Ps 0).T "helo"}}">`, "helo: no such key"},
	} {
		page, err := template.New("page").Parse(test.template)
		if err != nil {
			t.Fatal(err)
		}
		err = texts.Check(page.Tree)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got error %v, want %q", test.template, err, test.want)
		}
	}
}

func TestInline(t *testing.T) {
	t.Parallel()
	texts := load(t)
	for _, test := range []struct{ source, want, err string }{
		{source: `{{if .A}}{{T "hello" "name" .Name}}{{end}}`, want: `{{if .A}}Bonjour {{.Name}},{{end}}`},
		{source: `<p>{{Strong "hello" "name" $.Name}}</p>`, want: `<p>Bonjour <strong dir="auto">{{$.Name}}</strong>,</p>`},
		{source: `{{with .Name}}{{T "hello" "name" .}}{{end}}`, want: `{{with .Name}}Bonjour {{.}},{{end}}`},
		{source: `{{T "helo" "name" .Name}}`, err: "helo: no such key"},
		{source: `{{T "hello" "nam" .Name}}`, err: "text hello: got data for"},
		{source: `{{T "hello" "name" .Name "nam" .Name}}`, err: "text hello: got data for"},
		{source: `{{T "hello"}}`, err: "text hello: got data for"},
		{source: `{{T "open" "name" .Name "count" .N}}`, err: "text open: has plural forms"},
	} {
		got, err := texts.Inline("fr", test.source, strings.ToUpper)
		want := strings.NewReplacer("Bonjour", "BONJOUR").Replace(test.want)
		if test.err == "" && (err != nil || got != want) {
			t.Errorf("%s: got %s, %v, want %s", test.source, got, err, want)
		}
		if test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: got error %v, want %q", test.source, err, test.err)
		}
	}
}
