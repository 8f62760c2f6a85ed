package postgres

import (
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// Ids come and go as they are: alone, in arrays, and where there may be none.
func TestIDs(t *testing.T) {
	t.Parallel()
	types := pgtype.NewMap()
	registerIDs(types)
	id, other := uuid.New(), uuid.New()

	encoded, err := types.Encode(pgtype.UUIDOID, pgtype.BinaryFormatCode, id, nil)
	if err != nil || !slices.Equal(encoded, id[:]) {
		t.Fatalf("%s became %x, %v", id, encoded, err)
	}
	read := func(oid uint32, src []byte, dst any) {
		t.Helper()
		if err := types.Scan(oid, pgtype.BinaryFormatCode, src, dst); err != nil {
			t.Error(err)
		}
	}
	var got uuid.UUID
	if read(pgtype.UUIDOID, encoded, &got); got != id {
		t.Errorf("%s came back as %s", id, got)
	}
	if read(pgtype.UUIDOID, nil, &got); got != uuid.Nil {
		t.Errorf("NULL is %s", got)
	}
	maybe := &other
	if read(pgtype.UUIDOID, nil, &maybe); maybe != nil {
		t.Errorf("NULL is %s", maybe)
	}
	if read(pgtype.UUIDOID, encoded, &maybe); maybe == nil || *maybe != id {
		t.Errorf("%s came back as %v", id, maybe)
	}
	if err := types.Scan(pgtype.UUIDOID, pgtype.BinaryFormatCode, encoded[:15], &got); err == nil {
		t.Error("an id of fifteen bytes was read")
	}
	var text string
	if read(pgtype.UUIDOID, encoded, &text); text != id.String() {
		t.Errorf("as a text it is %s, want %s", text, id)
	}

	ids, list := []uuid.UUID{id, other}, []uuid.UUID{}
	array, err := types.Encode(pgtype.UUIDArrayOID, pgtype.BinaryFormatCode, ids, nil)
	if err != nil {
		t.Fatal(err)
	}
	if read(pgtype.UUIDArrayOID, array, &list); !slices.Equal(list, ids) {
		t.Errorf("%v came back as %v", ids, list)
	}
	if _, direct := types.PlanScan(pgtype.UUIDOID, pgtype.BinaryFormatCode, &got).(readID); !direct {
		t.Error("an id goes through its text")
	}
}
