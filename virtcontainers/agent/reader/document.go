package reader

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"kata-runtime/virtcontainers/agent/plain"
)

var (
	errDeep   = errors.New("a document that is too deep")
	errObject = errors.New("a document that is no object")
)

// document appends the values of a JSON document, an object, in its order.
func (e *encoder) document(content []byte) error {
	from := json.NewDecoder(bytes.NewReader(content))
	from.UseNumber()
	first, err := from.Token()
	if err != nil {
		return fmt.Errorf("decode a document: %w", err)
	}
	if first != json.Delim('{') {
		return errObject
	}
	if err := e.token(from, first, plain.MaxDepth); err != nil {
		return err
	}
	if _, err := from.Token(); !errors.Is(err, io.EOF) {
		return errObject
	}
	return nil
}

// token appends the value that begins with a token.
func (e *encoder) token(from *json.Decoder, token json.Token, depth int) error {
	if e.values--; e.values < 0 {
		return errMany
	}
	switch v := token.(type) {
	case json.Delim:
		if depth == 0 {
			return errDeep
		}
		return e.members(from, v == '{', depth-1)
	case string:
		e.number(plain.TokenText)
		return e.text([]byte(v))
	case json.Number:
		return e.figure(v.String())
	case bool:
		if v {
			e.number(plain.TokenTrue)
		} else {
			e.number(plain.TokenFalse)
		}
	default:
		e.number(plain.TokenNull)
	}
	return nil
}

// members appends an object, or an array, whose beginning was read.
func (e *encoder) members(from *json.Decoder, object bool, depth int) error {
	if object {
		e.number(plain.TokenObject)
	} else {
		e.number(plain.TokenArray)
	}
	for from.More() {
		token, err := from.Token()
		if err != nil {
			return fmt.Errorf("decode a document: %w", err)
		}
		if object {
			key, _ := token.(string) // the decoder lets nothing else through
			e.number(plain.TokenKey)
			if err := e.text([]byte(key)); err != nil {
				return err
			}
			if token, err = from.Token(); err != nil {
				return fmt.Errorf("decode a document: %w", err)
			}
		}
		if err := e.token(from, token, depth); err != nil {
			return err
		}
	}
	if _, err := from.Token(); err != nil {
		return fmt.Errorf("decode a document: %w", err)
	}
	e.number(plain.TokenEnd)
	return nil
}

// figure appends a number.
func (e *encoder) figure(text string) error {
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		e.number(plain.TokenUnsigned)
		e.number(n)
		return nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && strings.HasPrefix(text, "-") {
		e.number(plain.TokenSigned)
		e.number(uint64(n))
		return nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return fmt.Errorf("decode a document: %w", err)
	}
	e.number(plain.TokenFloat)
	e.number(math.Float64bits(f))
	return nil
}
