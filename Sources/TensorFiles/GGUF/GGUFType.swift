/// How a tensor of a GGUF file is stored, by ggml's number for it.
///
/// Source: gguf/constants.py `GGMLQuantizationType`, `GGML_QUANT_SIZES`.
public struct GGUFType: Sendable, Hashable {
  /// ggml's number.
  public let number: UInt32
  /// ggml's name, such as `Q8_0`.
  public let name: String
  /// Elements of a block, all of one row.
  public let blockElements: Int
  /// Bytes of a block.
  public let blockBytes: Int

  private init(_ number: UInt32, _ name: String, _ blockElements: Int, _ blockBytes: Int) {
    self.number = number
    self.name = name
    self.blockElements = blockElements
    self.blockBytes = blockBytes
  }

  /// All types whose size is known.
  public static let known: [GGUFType] = [
    GGUFType(0, "F32", 1, 4), GGUFType(1, "F16", 1, 2), GGUFType(2, "Q4_0", 32, 18), GGUFType(3, "Q4_1", 32, 20),
    GGUFType(6, "Q5_0", 32, 22), GGUFType(7, "Q5_1", 32, 24), GGUFType(8, "Q8_0", 32, 34), GGUFType(9, "Q8_1", 32, 40),
    GGUFType(10, "Q2_K", 256, 84), GGUFType(11, "Q3_K", 256, 110), GGUFType(12, "Q4_K", 256, 144),
    GGUFType(13, "Q5_K", 256, 176), GGUFType(14, "Q6_K", 256, 210), GGUFType(15, "Q8_K", 256, 292),
    GGUFType(16, "IQ2_XXS", 256, 66), GGUFType(17, "IQ2_XS", 256, 74), GGUFType(18, "IQ3_XXS", 256, 98),
    GGUFType(19, "IQ1_S", 256, 50), GGUFType(20, "IQ4_NL", 32, 18), GGUFType(21, "IQ3_S", 256, 110),
    GGUFType(22, "IQ2_S", 256, 82), GGUFType(23, "IQ4_XS", 256, 136), GGUFType(24, "I8", 1, 1),
    GGUFType(25, "I16", 1, 2), GGUFType(26, "I32", 1, 4), GGUFType(27, "I64", 1, 8), GGUFType(28, "F64", 1, 8),
    GGUFType(29, "IQ1_M", 256, 56), GGUFType(30, "BF16", 1, 2), GGUFType(34, "TQ1_0", 256, 54),
    GGUFType(35, "TQ2_0", 256, 66), GGUFType(39, "MXFP4", 32, 17), GGUFType(40, "NVFP4", 64, 36),
  ]

  /// The type of a number; nil if it is not known.
  public init?(number: UInt32) {
    guard let type = Self.known.first(where: { $0.number == number }) else { return nil }
    self = type
  }

  /// The type that holds elements of a dtype as they are; nil if there is none.
  public init?(_ dtype: DType) {
    guard let type = Self.known.first(where: { $0.dtype == dtype }) else { return nil }
    self = type
  }

  /// The dtype of a type without blocks; nil for the others.
  public var dtype: DType? {
    guard blockElements == 1 else { return nil }
    return DType(rawValue: name)
  }
}
