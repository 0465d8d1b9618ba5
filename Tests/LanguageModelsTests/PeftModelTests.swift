import LanguageModels
import PEFT
import TensorFiles
import TensorMath
import TestSupport
import Testing

/// Adapters beside running models, against PEFT.
@Suite struct PeftModelTests {
  static let expected = try? Checkpoint(path: Fixtures.path("models/adapters.safetensors"))
  /// Which no merge refuses, or which are prompts.
  static let cases = (expected?.names.sorted() ?? []).filter { !refused.contains($0) }
  /// What cannot be computed from what is stored, or routes by the input.
  static let refused: Set<String> = [
    "methods/adamss", "methods/psoft", "methods/lily", "variants/llama-replication",
  ]
  static let tokens = [3, 17, 8, 29, 1, 5, 36, 11, 2, 20, 7, 33]

  @Test func thereAreAdaptersOfManyKinds() { #expect(Self.cases.count > 100) }

  @Test(arguments: cases)
  func logitsAgreeWithPEFT(name: String) throws {
    let root = Fixtures.path(name)
    let model = try PeftModel.load(base: "\(root)/base", adapter: "\(root)/adapter")
    let found = try logitsInSteps(model, Self.tokens)
    let expected = try doubles(#require(Self.expected), name)
    #expect(found.count == expected.count)
    // Half-precision bases too: what an adapter changes is in f32, as in PEFT's reference.
    for (x, y) in zip(found, expected) { #expect(abs(Double(x) - y) <= 1e-4) }
  }
}
