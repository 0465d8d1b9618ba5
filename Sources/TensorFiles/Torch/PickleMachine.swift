/// A pickle machine that can only build tensors and plain containers.
///
/// Every opcode and every name that is not needed for a state dict is refused, and there is nothing to call: a name is a case of
/// an enumeration. Source: torch/_weights_only_unpickler.py `Unpickler`; Python's pickletools for the opcodes.
struct PickleMachine {
  private let path: String
  private let bytes: [UInt8]
  private let origin: Int
  /// Where the next pickle begins in the bytes.
  private(set) var position: Int
  private var budget: PickleBudget
  private(set) var arena = PickleArena()
  private var stack: [PickleValue] = []
  private var memo: [Int: PickleValue] = [:]

  /// A machine for the pickles of one file, one after the other, all on one budget.
  ///
  /// - Parameter origin: where the bytes begin in the file, for errors.
  init(path: String, bytes: [UInt8], from position: Int = 0, origin: Int, budget: PickleBudget) {
    self.path = path
    self.bytes = bytes
    self.position = position
    self.origin = origin
    self.budget = budget
  }

  /// The elements of a tuple or a list.
  private func elements(_ place: Int) -> [PickleValue] { arena.sequences[place] }

  private mutating func spend(values: Int = 1, bytes: Int = 0) throws(TensorFileError) {
    guard budget.spend(values: values, bytes: bytes) else {
      throw malformed("it takes more memory than a state dict does")
    }
  }

  private mutating func push(_ value: PickleValue) throws(TensorFileError) {
    try spend()
    stack.append(value)
  }

  private mutating func pushSequence(
    _ elements: [PickleValue], _ make: (Int) -> PickleValue
  ) throws(TensorFileError) {
    try spend()
    arena.sequences.append(elements)
    try push(make(arena.sequences.count - 1))
  }

  private mutating func pushDictionary(
    _ members: [(key: String, value: PickleValue)]
  ) throws(TensorFileError) {
    try spend(values: 1 + members.count)
    arena.dictionaries.append(members)
    try push(.dictionary(arena.dictionaries.count - 1))
  }

  private func malformed(_ reason: String) -> TensorFileError {
    .pickleMalformed(path: path, byteOffset: origin + position, reason: reason)
  }

  /// Runs to the end of one pickle. Throws `.pickleMalformed`, `.pickleOpcode`, `.pickleGlobal`.
  mutating func run() throws(TensorFileError) -> PickleValue {
    stack.removeAll()
    memo.removeAll()
    while true {
      guard budget.spendStep() else { throw malformed("it takes more steps than a state dict does") }
      let opcode = try take()
      if opcode == UInt8(ascii: ".") {
        guard stack.count == 1, let value = stack.popLast() else {
          throw malformed("it ends with \(stack.count) values")
        }
        return value
      }
      try perform(opcode)
    }
  }

  private mutating func perform(_ opcode: UInt8) throws(TensorFileError) {
    switch opcode {
    case 0x80:
      let version = try take()
      guard version <= 3 else { throw malformed("protocol \(version); torch writes 2") }
    case UInt8(ascii: "("): try push(.mark)
    case UInt8(ascii: "N"): try push(.none)
    case 0x88: try push(.bool(true))
    case 0x89: try push(.bool(false))
    case UInt8(ascii: "J"): try push(.integer(Int(Int32(truncatingIfNeeded: try number(4)))))
    case UInt8(ascii: "K"): try push(.integer(try number(1)))
    case UInt8(ascii: "M"): try push(.integer(try number(2)))
    case 0x8A: try long()
    case UInt8(ascii: "G"):
      let bits = try slice(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
      try push(.float(Double(bitPattern: bits)))
    case UInt8(ascii: "X"): try push(.string(try text(try number(4))))
    case UInt8(ascii: "U"): try push(.string(try text(try number(1))))
    case UInt8(ascii: "]"): try pushSequence([]) { .list($0) }
    case UInt8(ascii: "}"): try pushDictionary([])
    case UInt8(ascii: ")"): try pushSequence([]) { .tuple($0) }
    case UInt8(ascii: "t"): try pushSequence(try aboveMark()) { .tuple($0) }
    case 0x85: try tuple(1)
    case 0x86: try tuple(2)
    case 0x87: try tuple(3)
    case UInt8(ascii: "q"): try put(try number(1))
    case UInt8(ascii: "r"): try put(try number(4))
    case UInt8(ascii: "h"): try get(try number(1))
    case UInt8(ascii: "j"): try get(try number(4))
    case UInt8(ascii: "a"):
      let value = try pop()
      let place = try list()
      try spend()
      arena.sequences[place].append(value)
    case UInt8(ascii: "e"):
      let values = try aboveMark()
      let place = try list()
      try spend(values: values.count)
      arena.sequences[place] += values
    case UInt8(ascii: "s"):
      let value = try pop()
      let key = try pop()
      try set([key, value])
    case UInt8(ascii: "u"):
      let values = try aboveMark()
      try set(values)
    case UInt8(ascii: "c"): try global()
    case UInt8(ascii: "Q"): try persistent()
    case UInt8(ascii: "R"), 0x81: try call()
    case UInt8(ascii: "b"):
      // The state of a state dict is its metadata, which nothing here needs.
      _ = try pop()
      guard case .dictionary? = stack.last else { throw malformed("state set on something that is no dict") }
    default: throw .pickleOpcode(path: path, byteOffset: origin + position - 1, opcode: opcode)
    }
  }

  // MARK: Reading

  private mutating func take() throws(TensorFileError) -> UInt8 {
    guard position < bytes.count else { throw malformed("it ends in the middle") }
    position += 1
    return bytes[position - 1]
  }

  private mutating func slice(_ count: Int) throws(TensorFileError) -> ArraySlice<UInt8> {
    guard count >= 0, count <= bytes.count - position else {
      throw malformed("\(count) bytes announced, fewer are there")
    }
    position += count
    return bytes[position - count..<position]
  }

  /// A little-endian number without sign.
  private mutating func number(_ width: Int) throws(TensorFileError) -> Int {
    try slice(width).reversed().reduce(0) { $0 << 8 | Int($1) }
  }

  private mutating func text(_ count: Int) throws(TensorFileError) -> String {
    let bytes = try slice(count)
    try spend(bytes: count)
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw malformed("text that is no UTF-8")
    }
    return text
  }

  private mutating func line() throws(TensorFileError) -> String {
    guard let end = bytes[position...].firstIndex(of: 0x0A), end - position < 1000 else {
      throw malformed("a name without an end")
    }
    defer { position = end + 1 }
    return String(decoding: bytes[position..<end], as: UTF8.self)
  }

  private mutating func long() throws(TensorFileError) {
    let digits = try slice(try number(1))
    guard digits.count <= 8 else { throw malformed("a number of \(digits.count) bytes") }
    var value = digits.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    if let last = digits.last, last >= 0x80, digits.count < 8 { value |= UInt64.max << (8 * UInt64(digits.count)) }
    try push(.integer(Int(Int64(bitPattern: value))))
  }

  // MARK: The stack

  private mutating func pop() throws(TensorFileError) -> PickleValue {
    guard let value = stack.popLast() else { throw malformed("a value is missing") }
    if case .mark = value { throw malformed("a value is missing above a mark") }
    return value
  }

  private mutating func aboveMark() throws(TensorFileError) -> [PickleValue] {
    let index = stack.lastIndex { if case .mark = $0 { true } else { false } }
    guard let index else { throw malformed("no mark") }
    let values = Array(stack[(index + 1)...])
    stack.removeSubrange(index...)
    return values
  }

  private mutating func tuple(_ count: Int) throws(TensorFileError) {
    var values: [PickleValue] = []
    for _ in 0..<count { values.insert(try pop(), at: 0) }
    try pushSequence(values) { .tuple($0) }
  }

  private func list() throws(TensorFileError) -> Int {
    guard case .list(let list)? = stack.last else { throw malformed("appending to something that is no list") }
    return list
  }

  /// Gives the dict on top of the stack keys and values, which take turns.
  private mutating func set(_ values: [PickleValue]) throws(TensorFileError) {
    guard values.count % 2 == 0 else { throw malformed("a key without a value") }
    guard case .dictionary(let place)? = stack.last else {
      throw malformed("setting an item of something that is no dict")
    }
    try spend(values: values.count)
    for index in stride(from: 0, to: values.count, by: 2) {
      arena.dictionaries[place].append((try name(values[index]), values[index + 1]))
    }
  }

  private func name(_ key: PickleValue) throws(TensorFileError) -> String {
    switch key {
    case .string(let text): text
    case .integer(let number): "\(number)"
    default: throw malformed("a key that is no text")
    }
  }

  private mutating func put(_ place: Int) throws(TensorFileError) {
    guard let value = stack.last else { throw malformed("nothing to remember") }
    try spend(values: 2)
    memo[place] = value
  }

  private mutating func get(_ place: Int) throws(TensorFileError) {
    guard let value = memo[place] else { throw malformed("value \(place) was never remembered") }
    try push(value)
  }

  // MARK: Names and calls

  private mutating func global() throws(TensorFileError) {
    let start = origin + position - 1
    let (module, name) = (try line(), try line())
    guard let global = PickleGlobal(module: module, name: name) else {
      throw .pickleGlobal(path: path, byteOffset: start, name: "\(module).\(name)")
    }
    try push(.global(global))
  }

  /// `('storage', class, key, location, count)`, with a sixth value in early files.
  private mutating func persistent() throws(TensorFileError) {
    guard case .tuple(let place) = try pop(), case let parts = elements(place), parts.count == 5 || parts.count == 6,
      case .string("storage") = parts[0], case .global(.storageClass(let dtype)) = parts[1],
      case .string(let key) = parts[2],
      case .integer(let count) = parts[4]
    else { throw malformed("a reference that is no storage") }
    if parts.count == 6 {
      guard case .none = parts[5] else { throw malformed("a storage that is a view of another") }
    }
    guard count >= 0 else { throw malformed("a storage of \(count) elements") }
    try spend()
    arena.storages.append(TorchStorage(key: key, dtype: dtype, count: count))
    try push(.storage(arena.storages.count - 1))
  }

  private mutating func call() throws(TensorFileError) {
    guard case .tuple(let place) = try pop(), case .global(let global) = try pop() else {
      throw malformed("a call of something that is no known name")
    }
    let arguments = elements(place)
    switch global {
    case .orderedDictionary:
      var members: [(key: String, value: PickleValue)] = []
      // Early files give the members as a list of pairs.
      if let first = arguments.first {
        guard case .list(let pairs) = first, arguments.count == 1 else {
          throw malformed("an OrderedDict of something else")
        }
        try spend(values: elements(pairs).count)
        for pair in elements(pairs) {
          guard let parts = pairElements(pair), parts.count == 2 else {
            throw malformed("an OrderedDict of something else")
          }
          members.append((try name(parts[0]), parts[1]))
        }
      }
      try pushDictionary(members)
    case .rebuildTensor:
      let tensor = try tensor(arguments)
      try spend(values: 3 + tensor.shape.count)
      arena.tensors.append(tensor)
      try push(.tensor(arena.tensors.count - 1))
    case .rebuildParameter:
      guard case .tensor(let tensor)? = arguments.first, arguments.count == 3 else {
        throw malformed("a parameter of something that is no tensor")
      }
      try push(.tensor(tensor))
    case .size:
      guard case .tuple(let extents)? = arguments.first, arguments.count == 1 else {
        throw malformed("a size of no tuple")
      }
      try push(.tuple(extents))
    default: throw malformed("a call of a type")
    }
  }

  private func pairElements(_ value: PickleValue) -> [PickleValue]? {
    switch value {
    case .list(let place), .tuple(let place): elements(place)
    default: nil
    }
  }

  /// `(storage, offset, size, stride, …)`; the dtype is the storage's, or follows for untyped bytes.
  private func tensor(_ arguments: [PickleValue]) throws(TensorFileError) -> TorchTensor {
    guard arguments.count >= 4, case .storage(let place) = arguments[0], case .integer(let offset) = arguments[1],
      case .tuple(let sizes) = arguments[2], case .tuple(let steps) = arguments[3],
      case (let size, let stride) = (elements(sizes), elements(steps)), size.count == stride.count, size.count <= 64
    else { throw malformed("a tensor that is none") }
    let storage = arena.storages[place]
    var dtype = storage.dtype
    for case .global(.dtype(let given)) in arguments.dropFirst(4) { dtype = given }
    guard let dtype else { throw malformed("a tensor without an element type") }
    var (shape, strides): ([Int], [Int]) = ([], [])
    for (extent, step) in zip(size, stride) {
      guard case .integer(let extent) = extent, case .integer(let step) = step, extent >= 0, step >= 0 else {
        throw malformed("a negative or missing extent or stride")
      }
      shape.append(extent)
      strides.append(step)
    }
    guard offset >= 0 else { throw malformed("a negative offset") }
    return TorchTensor(storage: storage, dtype: dtype, offset: offset, shape: shape, strides: strides)
  }
}
