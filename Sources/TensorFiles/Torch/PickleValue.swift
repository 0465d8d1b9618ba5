/// What the restricted pickle machine can build: tensors and plain containers, nothing else.
indirect enum PickleValue {
  case none
  case bool(Bool)
  case integer(Int)
  case float(Double)
  case string(String)
  case tuple([PickleValue])
  case list(PickleList)
  case dictionary(PickleDictionary)
  /// A name of the allow-list, not yet called.
  case global(PickleGlobal)
  case storage(TorchStorage)
  case tensor(TorchTensor)
  /// Where a group of values on the stack begins.
  case mark
}

/// A list, shared by reference as in Python.
final class PickleList {
  var elements: [PickleValue] = []
}

/// A dict or an OrderedDict; keys other than strings are kept by their description.
final class PickleDictionary {
  var members: [(key: String, value: PickleValue)] = []
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
struct TorchStorage: Equatable {
  @ExactName var key: String
  /// Nil for untyped bytes.
  let dtype: DType?
  /// Elements; bytes of an untyped storage.
  let count: Int
}

/// A tensor as a view of a storage.
struct TorchTensor: Equatable {
  let storage: TorchStorage
  let dtype: DType
  /// In elements.
  let offset: Int
  let shape: [Int]
  let strides: [Int]
}
