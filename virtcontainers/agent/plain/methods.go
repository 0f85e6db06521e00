package plain

// Kind is that of a value.
type Kind uint8

// The kinds. A List of Texts or of Parts is one value.
const (
	Uint32 Kind = iota
	Int32
	Uint64
	Int64
	Bool
	Double
	Enum
	Text
	Document // JSON, an object
	Texts
	Parts
)

// Field is a value of an answer, by its number in the agent's protocol.
type Field struct {
	Number int
	Kind   Kind
	// Parts are those of each message in a list of Parts.
	Parts []Field
}

// Method is a call of the agent's.
type Method struct {
	Name string
	// Bytes and Fields are the most that an answer may have as the guest encodes it:
	// bytes, and fields of all its messages together. Each field can take some hundred
	// bytes of memory where it has two in the message, so that the largest message
	// alone would become 200 MiB.
	Bytes, Fields int
	// Values are the most that a document in it may have.
	Values int
	// Answer is what the answer says, in the order of its numbers.
	Answer []Field
}

const (
	// maxFrame is ttrpc's bound on a message.
	maxFrame = 4 << 20
	// perField is what a field takes at most here, when it is empty there.
	perField = 48
	// maxAnswer is the most that an answer of any method has here.
	maxAnswer = maxFrame + perField<<18
)

// MaxLength is the longest that an answer can be here.
func (m Method) MaxLength() int { return min(m.Bytes+perField*(m.Fields+m.Values+1), maxAnswer) }

// What begins a value of a document: a number. An object has, for each member, a key with
// its text and then a value, an array has values, and both an end.
const (
	TokenObject = iota
	TokenArray
	TokenKey
	TokenText
	TokenUnsigned
	TokenSigned
	TokenFloat
	TokenTrue
	TokenFalse
	TokenNull
	TokenEnd
)

// MaxDepth is how many objects and arrays may be in one another.
const MaxDepth = 16

// MaxDocument is how many bytes a document may have when it is written as JSON anew: no
// more than the guest may send, though there a byte can become six.
const MaxDocument = maxFrame

// Methods are those of the agent, in the order of its protocol.
func Methods() []Method {
	measured := []Field{{Number: 1, Kind: Enum}, {Number: 2, Kind: Double}}
	methods := []Method{
		{Name: "Hello", Bytes: 8 << 10, Fields: 128, Answer: []Field{
			{Number: 1, Kind: Uint32},
			{Number: 2, Kind: Text},
			{Number: 3, Kind: Text},
			{Number: 4, Kind: Uint64},
			{Number: 5, Kind: Texts},
			{Number: 6, Kind: Bool},
		}},
		{Name: "CreateSandbox"},
		{Name: "DestroySandbox"},
		{Name: "Rehearse"},
		{Name: "SetClock"},
		{Name: "CreateContainer"},
		{Name: "StartContainer"},
		{Name: "RemoveContainer"},
		{Name: "UpdateContainer"},
		{Name: "PauseContainer"},
		{Name: "ResumeContainer"},
		// One field, a JSON document.
		{Name: "StatsContainer", Bytes: maxFrame, Fields: 16, Values: 1 << 16, Answer: []Field{{Number: 1, Kind: Document}}},
		// Six fields a process, of as many as a kernel has by default.
		{Name: "ListProcesses", Bytes: maxFrame, Fields: 1 << 18, Answer: []Field{{Number: 1, Kind: Parts, Parts: []Field{
			{Number: 1, Kind: Int32}, {Number: 2, Kind: Int32}, {Number: 3, Kind: Text}, {Number: 4, Kind: Text}, {Number: 5, Kind: Text},
		}}}},
		{Name: "ExecProcess"},
		{Name: "SignalProcess"},
		{Name: "WaitProcess", Answer: []Field{
			{Number: 1, Kind: Uint32}, {Number: 2, Kind: Uint32}, {Number: 3, Kind: Bool}, {Number: 4, Kind: Int64}, {Number: 60, Kind: Uint64},
		}},
		{Name: "ResizeTerminal"},
		{Name: "NextOOM", Bytes: 4 << 10, Fields: 16, Answer: []Field{{Number: 1, Kind: Text}}},
		{Name: "OnlineResources"},
		{Name: "UpdateSockets"},
		{Name: "SetNetwork"},
		// Three fields a figure.
		{Name: "Metrics", Bytes: 1 << 20, Fields: 1 << 17, Answer: []Field{
			{Number: 1, Kind: Parts, Parts: measured},
			{Number: 2, Kind: Parts, Parts: []Field{{Number: 1, Kind: Parts, Parts: measured}}},
		}},
	}
	for i := range methods {
		// Most have nothing to say: they are let no more than what another version of
		// the agent may add.
		if methods[i].Bytes == 0 {
			methods[i].Bytes, methods[i].Fields = 256, 16
		}
	}
	return methods
}
