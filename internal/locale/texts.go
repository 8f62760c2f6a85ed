package locale

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template/parse"
	"time"

	"github.com/go-playground/locales"
)

// countName is the placeholder that picks the plural form. Its value is an int.
const countName = "count"

// Texts is a catalogue: every text in every supported language.
type Texts struct {
	byLang map[string]map[string]text // language, key
}

// Printer writes the texts of one catalogue in one language.
type Printer struct {
	lang  string
	texts map[string]text
}

// text is one entry of a catalogue. One without plural forms has only other.
type text struct {
	plural bool
	names  []string // the placeholders in order; count is one of a text with plural forms, even where no form shows it ("one answer")
	forms  map[locales.PluralRule][]piece
}

// piece is a literal, or a placeholder if name is set.
type piece struct{ literal, name string }

// LoadTexts reads <language>.json for every supported language from the root of
// fsys. A file maps keys to texts with placeholders in braces, or to the plural
// forms of a text, picked by the placeholder count:
//
//	{"greeting": "Hello {name},", "open": {"one": "1 invitation", "other": "{count} invitations"}}
//
// It refuses a catalogue whose languages differ in keys or placeholders, and one
// that breaks its language's typography; the error names every such key.
func LoadTexts(fsys fs.FS) (*Texts, error) {
	t := &Texts{byLang: map[string]map[string]text{}}
	var errs []error
	for _, lang := range Supported() {
		texts, err := loadLanguage(fsys, lang)
		t.byLang[lang] = texts
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	keys := map[string]bool{}
	for _, texts := range t.byLang {
		for key := range texts {
			keys[key] = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		errs = append(errs, t.compare(key))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return t, nil
}

// In returns the printer for lang, or for the language Match finds for it.
func (t *Texts) In(lang string) Printer {
	lang = Match(lang)
	return Printer{lang: lang, texts: t.byLang[lang]}
}

// Check looks through parsed templates for calls of a Printer's T and Strong and
// refuses those with an unknown key or other data than the text's placeholders.
// Keys that are not literal are left to the tests.
func (t *Texts) Check(trees ...*parse.Tree) error {
	var errs []error
	for _, tree := range trees {
		if tree == nil || tree.Root == nil {
			continue
		}
		for _, c := range calls(tree.Root) {
			if err := t.checkCall(c); err != nil {
				where, _ := tree.ErrorContext(c)
				errs = append(errs, fmt.Errorf("check template %s: %w", where, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Lang is the language the printer writes, as HTML's lang attribute.
func (p Printer) Lang() string { return p.lang }

// Dir is the direction of the language, as HTML's dir attribute.
func (p Printer) Dir() string { return Dir(p.lang) }

// DateTime is the package's DateTime in the printer's language.
func (p Printer) DateTime(t time.Time, zone *time.Location) string {
	return DateTime(p.lang, t, zone)
}

// T returns a text with its placeholders filled from data: names and values in
// turn, as in T("greeting", "name", "Ann"). An unknown key, or data that does not
// fit the placeholders, is a mistake in our own code and panics; a template turns
// that into an error, and Check finds it at start.
func (p Printer) T(key string, data ...any) string {
	return p.write(key, data, func(s string) string { return s }, func(s string) string { return s })
}

// Strong is T for HTML: everything escaped, each value in a strong element. So
// one sentence serves a mail's plain text and its HTML. A value's own writing
// direction does not disturb the sentence around it.
func (p Printer) Strong(key string, data ...any) template.HTML {
	return template.HTML(p.write(key, data, template.HTMLEscapeString, func(s string) string { //nolint:gosec // both halves are escaped here
		return `<strong dir="auto">` + template.HTMLEscapeString(s) + `</strong>`
	}))
}

func (p Printer) write(key string, data []any, literal, value func(string) string) string {
	t, ok := p.texts[key]
	if !ok {
		panic(fmt.Sprintf("write text %s: no such key", key))
	}
	valueOf := func(name string) any {
		for i := 0; i+1 < len(data); i += 2 {
			if data[i] == name {
				return data[i+1]
			}
		}
		panic(fmt.Sprintf("write text %s: got data %q, want %q", key, data, t.names))
	}
	for _, name := range t.names {
		valueOf(name)
	}
	if len(data) != 2*len(t.names) {
		panic(fmt.Sprintf("write text %s: got data %q, want %q", key, data, t.names))
	}
	rule, count := locales.PluralRuleOther, ""
	if t.plural {
		n, ok := valueOf(countName).(int)
		if !ok {
			panic(fmt.Sprintf("write text %s: count is a %T, want an int", key, valueOf(countName)))
		}
		rule = speeches[p.lang].names.CardinalPluralRule(float64(n), 0)
		count = speeches[p.lang].names.FmtNumber(float64(n), 0)
	}
	var b strings.Builder
	for _, piece := range t.forms[rule] {
		switch {
		case piece.name == "":
			b.WriteString(literal(piece.literal))
		case t.plural && piece.name == countName:
			b.WriteString(value(count))
		default:
			b.WriteString(value(fmt.Sprint(valueOf(piece.name))))
		}
	}
	return b.String()
}

// inlined is a call that Inline replaces.
var inlined = regexp.MustCompile(`\{\{(T|Strong) "([^"]*)"((?: "[^"]*" [.$\w]+)*)\}\}`)

// Inline writes the texts of lang into the source of a template, so that
// nothing is left to look up when it runs: in English,
//
//	{{T "greeting" "name" .Name}}
//
// becomes Hello {{.Name}}, where the template's own escaping does the rest.
// escape is applied to what the texts themselves say. Strong puts each value
// into a strong element, as Printer.Strong does. Inline refuses unknown keys,
// data that does not fit the placeholders, and texts with plural forms.
func (t *Texts) Inline(lang, source string, escape func(string) string) (string, error) {
	texts := t.In(lang).texts
	var errs []error
	source = inlined.ReplaceAllStringFunc(source, func(call string) string {
		m := inlined.FindStringSubmatch(call)
		text, ok := texts[m[2]]
		values := map[string]string{}
		data := strings.Fields(m[3])
		for i := 0; i < len(data); i += 2 {
			values[strings.Trim(data[i], `"`)] = "{{" + data[i+1] + "}}"
		}
		switch got := slices.Sorted(maps.Keys(values)); {
		case !ok:
			errs = append(errs, fmt.Errorf("inline text %s: no such key", m[2]))
		case text.plural:
			errs = append(errs, fmt.Errorf("inline text %s: has plural forms", m[2]))
		case !slices.Equal(got, text.names):
			errs = append(errs, fmt.Errorf("inline text %s: got data for %q, want %q", m[2], got, text.names))
		}
		var b strings.Builder
		for _, piece := range text.forms[locales.PluralRuleOther] {
			switch {
			case piece.name == "":
				b.WriteString(escape(piece.literal))
			case m[1] == "Strong":
				b.WriteString(`<strong dir="auto">` + values[piece.name] + `</strong>`)
			default:
				b.WriteString(values[piece.name])
			}
		}
		return b.String()
	})
	return source, errors.Join(errs...)
}

// compare says how the languages disagree about one key, if they do.
func (t *Texts) compare(key string) error {
	want, ok := t.byLang[Default][key]
	if !ok {
		return fmt.Errorf("load text %s: missing in %s", key, Default)
	}
	for _, lang := range Supported() {
		got, ok := t.byLang[lang][key]
		switch {
		case !ok:
			return fmt.Errorf("load text %s: missing in %s", key, lang)
		case got.plural != want.plural:
			return fmt.Errorf("load text %s: plural forms in only one of %s and %s", key, Default, lang)
		case !slices.Equal(got.names, want.names):
			return fmt.Errorf("load text %s: placeholders %q in %s, %q in %s", key, want.names, Default, got.names, lang)
		}
	}
	return nil
}

func loadLanguage(fsys fs.FS, lang string) (map[string]text, error) {
	raw, err := fs.ReadFile(fsys, lang+".json")
	if err != nil {
		return nil, fmt.Errorf("load texts: %w", err)
	}
	texts := map[string]text{}
	var errs []error
	// Token by token, because decoding into a map keeps the last of two equal
	// keys without a word.
	d := json.NewDecoder(bytes.NewReader(raw))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil, fmt.Errorf("load texts: %s.json is not a JSON object", lang)
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("load texts %s.json: %w", lang, err)
		}
		var value any
		if err := d.Decode(&value); err != nil {
			return nil, fmt.Errorf("load texts %s.json: %w", lang, err)
		}
		name := fmt.Sprint(key)
		t, err := parseText(lang, value)
		if _, twice := texts[name]; twice {
			err = errors.New("is there twice")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("load text %s of %s.json: %w", name, lang, err))
		}
		texts[name] = t
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("load texts %s.json: %w", lang, err)
	}
	return texts, errors.Join(errs...)
}

var pluralNames = map[string]locales.PluralRule{
	"zero": locales.PluralRuleZero, "one": locales.PluralRuleOne, "two": locales.PluralRuleTwo,
	"few": locales.PluralRuleFew, "many": locales.PluralRuleMany, "other": locales.PluralRuleOther,
}

func parseText(lang string, value any) (text, error) {
	t := text{forms: map[locales.PluralRule][]piece{}}
	written := map[locales.PluralRule]string{}
	names := map[string]bool{}
	switch value := value.(type) {
	case string:
		written[locales.PluralRuleOther] = value
	case map[string]any:
		t.plural, names[countName] = true, true
		for name, form := range value {
			rule, known := pluralNames[name]
			s, ok := form.(string)
			if !known || !ok {
				return t, fmt.Errorf("%q is no plural form with a text", name)
			}
			written[rule] = s
		}
		rules := speeches[lang].names.PluralsCardinal()
		if got := slices.Sorted(maps.Keys(written)); !slices.Equal(got, slices.Sorted(slices.Values(rules))) {
			return t, fmt.Errorf("has plural forms %v, the language has %v", got, rules)
		}
	default:
		return t, errors.New("is neither a text nor plural forms")
	}
	for rule, s := range written {
		if err := checkTypography(lang, s); err != nil {
			return t, err
		}
		pieces, err := parsePieces(s)
		if err != nil {
			return t, err
		}
		t.forms[rule] = pieces
		for _, p := range pieces {
			if p.name != "" {
				names[p.name] = true
			}
		}
	}
	t.names = slices.Sorted(maps.Keys(names))
	return t, nil
}

var placeholder = regexp.MustCompile(`\{([a-z][a-z_]*)\}`)

func parsePieces(s string) ([]piece, error) {
	var pieces []piece
	end := 0
	for _, m := range placeholder.FindAllStringSubmatchIndex(s, -1) {
		pieces = append(pieces, piece{literal: s[end:m[0]]}, piece{name: s[m[2]:m[3]]})
		end = m[1]
	}
	pieces = append(pieces, piece{literal: s[end:]})
	for _, p := range pieces {
		if strings.ContainsAny(p.literal, "{}") {
			return nil, errors.New("has a brace that is no {placeholder}")
		}
	}
	return pieces, nil
}

// spacedFrench finds what needs a space that does not break, and has an ordinary
// one: a line may not begin with a question mark.
var spacedFrench = regexp.MustCompile(` [;:?!»%]|« `)

// checkTypography catches the slips that readers of a language notice and
// authors of another do not see.
func checkTypography(lang, s string) error {
	switch {
	case strings.TrimSpace(s) == "":
		return errors.New("is empty")
	case strings.TrimSpace(s) != s:
		return errors.New("begins or ends with a space")
	case strings.ContainsAny(s, "<>\x00\r\n\t"):
		return errors.New("has markup or a control character; texts are plain sentences")
	case strings.Contains(s, "'"):
		return errors.New("has a typewriter apostrophe, want ’")
	case lang == "fr" && spacedFrench.MatchString(s):
		return fmt.Errorf("has an ordinary space at %q, want U+202F", spacedFrench.FindString(s))
	case lang == "es" && strings.Count(s, "?") != strings.Count(s, "¿"),
		lang == "es" && strings.Count(s, "!") != strings.Count(s, "¡"):
		return errors.New("has ? or ! without its ¿ or ¡")
	}
	return nil
}

// checkCall checks one call of T or Strong whose key is literal.
func (t *Texts) checkCall(c *parse.CommandNode) error {
	key, ok := c.Args[1].(*parse.StringNode)
	if !ok {
		return nil
	}
	text, ok := t.byLang[Default][key.Text]
	if !ok {
		return fmt.Errorf("text %s: no such key", key.Text)
	}
	var got []string
	for i := 2; i < len(c.Args); i += 2 {
		name, ok := c.Args[i].(*parse.StringNode)
		if !ok || i+1 == len(c.Args) {
			return fmt.Errorf("text %s: data must be names and values in turn", key.Text)
		}
		got = append(got, name.Text)
	}
	if slices.Sort(got); !slices.Equal(got, text.names) {
		return fmt.Errorf("text %s: got data for %q, want %q", key.Text, got, text.names)
	}
	return nil
}

// calls finds the calls of a method T or Strong below a node.
func calls(node parse.Node) []*parse.CommandNode {
	var found []*parse.CommandNode
	branch := func(b *parse.BranchNode) {
		found = append(found, calls(b.Pipe)...)
		found = append(found, calls(b.List)...)
		if b.ElseList != nil {
			found = append(found, calls(b.ElseList)...)
		}
	}
	switch n := node.(type) {
	case *parse.ListNode:
		for _, child := range n.Nodes {
			found = append(found, calls(child)...)
		}
	case *parse.ActionNode:
		found = calls(n.Pipe)
	case *parse.TemplateNode:
		if n.Pipe != nil {
			found = calls(n.Pipe)
		}
	case *parse.IfNode:
		branch(&n.BranchNode)
	case *parse.RangeNode:
		branch(&n.BranchNode)
	case *parse.WithNode:
		branch(&n.BranchNode)
	case *parse.PipeNode:
		for _, c := range n.Cmds {
			found = append(found, calls(c)...)
		}
	case *parse.CommandNode:
		if len(n.Args) > 1 && prints(n.Args[0]) {
			found = append(found, n)
		}
		for _, arg := range n.Args {
			found = append(found, calls(arg)...)
		}
	}
	return found
}

// prints reports whether a node names a method T or Strong.
func prints(node parse.Node) bool {
	var path []string
	switch n := node.(type) {
	case *parse.FieldNode:
		path = n.Ident
	case *parse.VariableNode:
		path = n.Ident
	case *parse.ChainNode:
		path = n.Field
	}
	return len(path) > 0 && (path[len(path)-1] == "T" || path[len(path)-1] == "Strong")
}
