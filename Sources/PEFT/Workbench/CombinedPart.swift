internal import TensorFiles
internal import TensorMath

/// What one adapter does to one module, whatever its method is.
struct CombinedPart: Sendable {
  @ExactName var path: String
  /// What rank and alpha patterns are matched with.
  let key: String
  let isEmbedding: Bool
  /// Of stored factors their rank; of a computed change the greatest that it may have.
  let rank: Int
  /// What the changes are multiplied by.
  let scale: Double
  /// The change without the scale: one for each expert, one of any other module.
  let changes: [FactoredChange]
  /// Reads the bias of lora_B, if there is one.
  private(set) var bias: (@Sendable () throws(AdapterError) -> [Double])?
  /// The stored factors; nil where the change is computed.
  let factors: LoRAModule?
  private let kernel: [Int]

  var output: Int { changes[0].output }

  /// The shape of lora_A for a rank.
  func shapeA(rank: Int) -> [Int] {
    [changes.count * rank, changes[0].input / kernel.reduce(1, *)] + kernel
  }

  /// The shape of lora_B for a rank.
  func shapeB(rank: Int) -> [Int] { [output, changes.count * rank] + kernel.map { _ in 1 } }

  init(_ module: LoRAModule, of file: SafetensorsFile) {
    _path = ExactName(module.path)
    key = module.key
    isEmbedding = module.isEmbedding
    rank = module.values.rank
    scale = module.values.scale
    changes = module.changes
    factors = module
    kernel = Array(module.a.shape.dropFirst(2))
    if let entry = module.bias {
      bias = { () throws(AdapterError) in
        try asAdapterError { () throws(TensorFileError) in
          try StoredTensor(file: file.file, entry: entry).values(Double.self)
        }
      }
    }
  }

  init(_ module: ConvertedModule) {
    _path = ExactName(module.path)
    key = module.path
    isEmbedding = module.isEmbedding
    rank = module.change.extent
    scale = 1
    changes = [module.change]
    factors = nil
    kernel = module.kernel
    if let own = module.bias { bias = { () throws(AdapterError) in try own.values() } }
  }
}
