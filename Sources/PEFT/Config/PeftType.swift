/// The method of an adapter, by PEFT's name.
///
/// Source: peft/utils/peft_types.py `PeftType`.
public struct PeftType: RawRepresentable, Hashable, Sendable {
  public let rawValue: String

  public init(rawValue: String) { self.rawValue = rawValue }

  public static let lora = PeftType(rawValue: "LORA")

  /// LoRA, and every method that is registered: those of PEFT 0.21.2, BONE, which it calls MISS, and a client's own.
  public static var known: [PeftType] { [.lora] + AdapterMethod.all.map(\.type) }
}
