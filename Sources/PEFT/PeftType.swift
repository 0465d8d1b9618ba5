/// The method of an adapter, by PEFT's name.
///
/// Source: peft/utils/peft_types.py `PeftType`.
public struct PeftType: RawRepresentable, Hashable, Sendable {
  public let rawValue: String

  public init(rawValue: String) { self.rawValue = rawValue }

  public static let lora = PeftType(rawValue: "LORA")

  /// Every method of PEFT 0.21.2, and BONE, which it calls MISS.
  public static let known: [PeftType] =
    """
    PROMPT_TUNING MULTITASK_PROMPT_TUNING P_TUNING PREFIX_TUNING LORA ADALORA BOFT ADAPTION_PROMPT IA3 LOHA LOKR OFT \
    XLORA POLY LN_TUNING VERA FOURIERFT HRA BEFT CPT DEFT MISS RANDLORA ROAD TRAINABLE_TOKENS SHIRA C3A WAVEFT \
    OSF DELORA GRALORA LILY CARTRIDGE PVERA PSOFT TINYLORA VBLORA UNILORA FROD ADAMSS HIRA SUPERTUNING PEANUT GLORA SHADOW BONE
    """.split(separator: " ").map { PeftType(rawValue: String($0)) }
}
