package postgres

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// idCodec reads and writes a uuid.UUID as the sixteen bytes that it is. Left
// alone, pgx takes it for a sql.Scanner, writes each id as a text and has that
// parsed again. NULL is uuid.Nil, as uuid.UUID has it.
type idCodec struct{ pgtype.UUIDCodec }

// registerIDs has a connection use idCodec, for arrays of ids too.
func registerIDs(types *pgtype.Map) {
	types.RegisterType(&pgtype.Type{Name: "uuid", OID: pgtype.UUIDOID, Codec: idCodec{}})
}

func (c idCodec) PlanScan(types *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	if _, ok := target.(*uuid.UUID); ok && format == pgtype.BinaryFormatCode {
		return readID{}
	}
	return c.UUIDCodec.PlanScan(types, oid, format, target)
}

func (c idCodec) PlanEncode(types *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(uuid.UUID); ok && format == pgtype.BinaryFormatCode {
		return writeID{}
	}
	return c.UUIDCodec.PlanEncode(types, oid, format, value)
}

type readID struct{}

func (readID) Scan(src []byte, dst any) error {
	id := dst.(*uuid.UUID)
	if src == nil {
		*id = uuid.Nil
		return nil
	}
	if len(src) != len(id) {
		return fmt.Errorf("an id of %d bytes", len(src))
	}
	copy(id[:], src)
	return nil
}

type writeID struct{}

func (writeID) Encode(value any, buf []byte) ([]byte, error) {
	id := value.(uuid.UUID)
	return append(buf, id[:]...), nil
}
