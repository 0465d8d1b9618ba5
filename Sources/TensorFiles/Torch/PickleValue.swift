/// What the restricted pickle machine can build: tensors and plain containers, nothing else.
///
/// Containers, storages and tensors lie in the machine's arena and are named by their places there: a value owns no other, so that
/// values as deep as a file likes, or within themselves, are let go in one step.
enum PickleValue {
  case none
  case bool(Bool)
  case integer(Int)
  case float(Double)
  case string(String)
  case tuple(Int)
  case list(Int)
  case dictionary(Int)
  /// A name of the allow-list, not yet called.
  case global(PickleGlobal)
  case storage(Int)
  case tensor(Int)
  /// Where a group of values on the stack begins.
  case mark
}

/// What the pickles of one file have built.
struct PickleArena {
  /// The elements of tuples and lists, shared by their places as in Python.
  var sequences: [[PickleValue]] = []
  /// The members of dicts and OrderedDicts; keys other than strings are kept by their description.
  var dictionaries: [[(key: String, value: PickleValue)]] = []
  var storages: [TorchStorage] = []
  var tensors: [TorchTensor] = []
}

/// What the pickles of one file may cost together.
///
/// A state dict of 100,000 tensors takes some five million steps and 300 million bytes.
struct PickleBudget {
  private var steps = 30_000_000
  private var bytes = 700_000_000

  /// Instructions; false if they are spent.
  mutating func spendStep() -> Bool {
    steps -= 1
    return steps >= 0
  }

  /// Memory for that many values and that much text; false if it is spent. What was let go is not given back.
  mutating func spend(values: Int, bytes more: Int = 0) -> Bool {
    // Neither count is over a file's length.
    bytes -= values * 48 + more
    return bytes >= 0
  }
}

/// A name that a pickle may use. Anything else is refused, whatever it is.
enum PickleGlobal: Equatable {
  case orderedDictionary
  case rebuildTensor
  case rebuildParameter
  case size
  /// A storage class, such as `torch.FloatStorage`, with its element type; nil for untyped bytes.
  case storageClass(DType?)
  /// An element type, such as `torch.float32`.
  case dtype(DType)

  /// The whole name decides; there are no prefixes and no patterns.
  ///
  /// Source: torch/_weights_only_unpickler.py `_get_allowed_globals`, of which this is the part that state dicts need.
  init?(module: String, name: String) {
    switch "\(module) \(name)" {
    case "collections OrderedDict": self = .orderedDictionary
    case "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor": self = .rebuildTensor
    case "torch._utils _rebuild_parameter": self = .rebuildParameter
    case "torch Size": self = .size
    case "torch.storage UntypedStorage", "torch UntypedStorage": self = .storageClass(nil)
    default:
      guard module == "torch" else { return nil }
      if let dtype = Self.storages[name] {
        self = .storageClass(dtype)
      } else if let dtype = Self.dtypes[name] {
        self = .dtype(dtype)
      } else {
        return nil
      }
    }
  }

  private static let storages: [String: DType] = [
    "FloatStorage": .f32, "DoubleStorage": .f64, "HalfStorage": .f16, "BFloat16Storage": .bf16, "LongStorage": .i64,
    "IntStorage": .i32, "ShortStorage": .i16, "CharStorage": .i8, "ByteStorage": .u8, "BoolStorage": .bool,
    "ComplexFloatStorage": .c64,
  ]

  private static let dtypes: [String: DType] = [
    "float32": .f32, "float64": .f64, "float16": .f16, "bfloat16": .bf16, "int64": .i64, "int32": .i32, "int16": .i16,
    "int8": .i8, "uint8": .u8, "bool": .bool, "float8_e4m3fn": .f8e4m3, "float8_e5m2": .f8e5m2, "complex64": .c64,
    "uint16": .u16, "uint32": .u32, "uint64": .u64,
  ]
}

/// A storage that a pickle names: its bytes lie elsewhere in the file.
struct TorchStorage: Hashable {
  @ExactName var key: String
  /// Nil for untyped bytes.
  let dtype: DType?
  /// Elements; bytes of an untyped storage.
  let count: Int
}

/// A tensor as a view of a storage.
struct TorchTensor: Hashable {
  let storage: TorchStorage
  let dtype: DType
  /// In elements.
  let offset: Int
  let shape: [Int]
  let strides: [Int]
}
