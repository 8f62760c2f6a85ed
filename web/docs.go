package web

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"usher/internal/roster"
)

// apiIntro opens the API's description.
const apiIntro = `Usher runs the life of invitations: it stores them, mails them, lets people decide with one click, and tells what became of them.`

// describe makes the reference page from the OpenAPI document, so that the two
// cannot say different things.
func describe(doc *huma.OpenAPI, o Options) docsView {
	v := docsView{
		Title: "Usher API", Version: doc.Info.Version, BaseURL: o.URL.String(), Intro: doc.Info.Description,
		Sections: []docsSection{
			{
				ID: "authentication", Title: "Authentication",
				Text:    "Every call carries an app's API key. Calls by which a person acts name that person's account in `Usher-Actor`. Ids of other apps answer 404.",
				Example: "Authorization: Bearer usk_…\nUsher-Actor: 0190f3c4-7b1e-7cc2-a1f0-2f4f5a3f6f10",
			},
			{
				ID: "idempotency", Title: "Repeating a request",
				Text: "Send an `Idempotency-Key` with every POST, and repeat a request as often as you need: the first answer is given again for at least 24 hours, a refusal included. The same key with another request answers 422 `idempotency_key_reused`.",
			},
			{
				ID: "problems", Title: "Problems",
				Text:   "Answers that are not a success are problems after RFC 9457, of type `application/problem+json`. Tell them apart by `code`.",
				Fields: bodyFields(doc, doc.Components.Schemas.SchemaFromRef("#/components/schemas/Problem")),
			},
			{
				ID: "lists", Title: "Lists",
				Text: "Lists come in pages. Send `next` of one answer as `after` to get the following rows; the last page has no `next`.",
			},
			{
				ID: "receiving-webhooks", Title: "Receiving webhooks",
				Text: webhookIntro, Example: webhookExample,
				Fields: webhookFields(doc),
			},
			{ID: "event-types", Title: "Types of events", Text: "Events and webhooks are of these types.", Fields: eventTypeFields()},
		},
	}
	for _, tag := range doc.Tags {
		group := docsGroup{ID: anchor(tag.Name), Title: tag.Name, Description: tag.Description}
		for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
			item := doc.Paths[path]
			for _, op := range []*huma.Operation{item.Post, item.Get, item.Patch, item.Delete} {
				if op != nil && slices.Contains(op.Tags, tag.Name) {
					group.Operations = append(group.Operations, describeOperation(doc, op, o))
				}
			}
		}
		v.Groups = append(v.Groups, group)
	}
	return v
}

// webhookExample is how a receiver verifies webhooks, and one of them.
const webhookExample = `import { Webhook } from "standardwebhooks";
const event = new Webhook(process.env.WEBHOOK_SECRET).verify(rawBody, headers); // throws if it is not ours

{"type": "invitation.accepted", "timestamp": "2026-03-02T09:00:00Z", "data": {
  "app_id": "0190f3c4-…", "subject_id": "0190f3c5-…", "actor_id": null,
  "details": {"version": 1, "workspace_id": "0190f3c5-…"}}}`

// webhookFields are the headers and the body of a webhook.
func webhookFields(doc *huma.OpenAPI) (fields []docsField) {
	op := doc.Webhooks["event"].Post
	for _, p := range op.Parameters {
		fields = append(fields, docsField{Name: p.Name, In: p.In, Type: p.Schema.Type, Description: p.Description, Required: true})
	}
	schema := resolve(doc, op.RequestBody.Content["application/json"].Schema)
	for _, field := range bodyFields(doc, schema) {
		if field.Name == "type" {
			field.Limits = "" // they are listed by themselves
		}
		fields = append(fields, field)
		for _, inner := range bodyFields(doc, resolve(doc, schema.Properties[field.Name])) {
			inner.Name = field.Name + "." + inner.Name
			fields = append(fields, inner)
		}
	}
	return fields
}

func eventTypeFields() (fields []docsField) {
	for _, t := range roster.EventTypes {
		fields = append(fields, docsField{Name: t.Type, Description: t.Doc})
	}
	return fields
}

func anchor(title string) string { return strings.ReplaceAll(strings.ToLower(title), " ", "-") }

func describeOperation(doc *huma.OpenAPI, op *huma.Operation, o Options) docsOperation {
	d := docsOperation{
		ID: op.OperationID, Method: op.Method, Path: op.Path, Summary: op.Summary, Description: op.Description,
	}
	for _, p := range op.Parameters {
		field := schemaField(doc, p.Name, p.Schema)
		field.In, field.Required = p.In, p.Required
		if field.Description == "" {
			field.Description = p.Description
		}
		d.Parameters = append(d.Parameters, field)
	}
	var example string
	if op.RequestBody != nil {
		schema := resolve(doc, op.RequestBody.Content["application/json"].Schema)
		d.Body = bodyFields(doc, schema)
		example = exampleBody(doc, schema)
	}
	d.Curl = curl(op, o, example)
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		response := op.Responses[status]
		r := docsResponse{Status: status, Description: response.Description}
		for _, content := range response.Content {
			if strings.HasPrefix(status, "2") {
				r.Fields = bodyFields(doc, resolve(doc, content.Schema))
			}
		}
		d.Responses = append(d.Responses, r)
	}
	return d
}

// curl is the operation as a line to paste.
func curl(op *huma.Operation, o Options, body string) string {
	line := "curl"
	if op.Method != http.MethodGet {
		line += " -X " + op.Method
	}
	line += " " + o.URL.String() + op.Path + " \\\n  -H 'Authorization: Bearer $USHER_KEY'"
	line = strings.ReplaceAll(line, "'Authorization: Bearer $USHER_KEY'", `"Authorization: Bearer $USHER_KEY"`)
	for _, p := range op.Parameters {
		if p.Name == "Usher-Actor" {
			line += " \\\n  -H \"Usher-Actor: $ACCOUNT\""
		}
	}
	if body != "" {
		line += " \\\n  -H 'Content-Type: application/json' \\\n  -d '" + body + "'"
	}
	return line
}

func resolve(doc *huma.OpenAPI, schema *huma.Schema) *huma.Schema {
	if schema != nil && schema.Ref != "" {
		return doc.Components.Schemas.SchemaFromRef(schema.Ref)
	}
	return schema
}

// bodyFields are the fields of an object, those of its rows included.
func bodyFields(doc *huma.OpenAPI, schema *huma.Schema) []docsField {
	var fields []docsField
	if schema == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
		property := schema.Properties[name]
		field := schemaField(doc, name, property)
		field.Required = slices.Contains(schema.Required, name)
		fields = append(fields, field)
		if property.Items != nil {
			for _, inner := range bodyFields(doc, resolve(doc, property.Items)) {
				inner.Name = name + "." + inner.Name
				fields = append(fields, inner)
			}
		}
	}
	return fields
}

func schemaField(doc *huma.OpenAPI, name string, schema *huma.Schema) docsField {
	described := schema.Description
	schema = resolve(doc, schema)
	field := docsField{Name: name, Type: schema.Type, Description: described}
	if schema.Format != "" {
		field.Type = schema.Format
	}
	if schema.Type == "array" {
		field.Type = "list"
	}
	var limits []string
	if schema.MaxLength != nil {
		limits = append(limits, fmt.Sprintf("at most %d characters", *schema.MaxLength))
	}
	if schema.Minimum != nil && schema.Maximum != nil {
		limits = append(limits, fmt.Sprintf("%g to %g", *schema.Minimum, *schema.Maximum))
	}
	if len(schema.Enum) > 0 {
		values := make([]string, len(schema.Enum))
		for i, value := range schema.Enum {
			values[i] = fmt.Sprint(value)
		}
		limits = append(limits, "one of "+strings.Join(values, ", "))
	}
	if schema.Default != nil {
		limits = append(limits, fmt.Sprintf("%v if missing", schema.Default))
	}
	field.Limits = strings.Join(limits, "; ")
	return field
}

// exampleBody is a request's body made of its fields' examples: the required
// fields, and the optional ones that have an example.
func exampleBody(doc *huma.OpenAPI, schema *huma.Schema) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
		property := resolve(doc, schema.Properties[name])
		var value any
		switch {
		case len(property.Examples) > 0:
			value = property.Examples[0]
		case !slices.Contains(schema.Required, name):
			continue
		case property.Format == "uuid":
			value = "$" + strings.ToUpper(strings.TrimSuffix(name, "_id"))
		case len(property.Enum) > 0:
			value = property.Enum[0]
		}
		raw, err := json.Marshal(value)
		if err != nil {
			continue
		}
		parts = append(parts, fmt.Sprintf("%q: %s", name, raw))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
