import LanguageModels
import PEFT
import TensorFiles
import TensorMath
import TestSupport
import Testing

/// Every architecture against what transformers computes with the same tiny model.
@Suite struct ArchitectureTests {
  static let cases =
    ((try? FileSystem.names(in: Fixtures.path("models"))) ?? []).filter {
      FileSystem.kind(Fixtures.path("models/\($0)/tree.txt")) != nil
    }

  private func expected(_ root: String) throws -> (tokens: [Int], logits: [Float], greedy: [Int]) {
    let file = try Checkpoint(path: "\(root)/expected.safetensors")
    return (try integers(file, "tokens"), try doubles(file, "logits").map { Float($0) }, try integers(file, "greedy"))
  }

  @Test func thereAreFixturesOfEveryArchitecture() { #expect(Self.cases.count >= 16) }

  @Test(arguments: cases)
  func logitsAgreeWithTransformers(name: String) throws {
    let root = Fixtures.path("models/\(name)")
    let model = try CausalLanguageModel(directory: root)
    let (tokens, logits, _) = try expected(root)
    let found = try model.logits(tokens, cache: model.makeCache())
    #expect(found.values.count == logits.count)
    for (x, y) in zip(found.values, logits) { #expect(abs(x - y) <= 1e-4) }
  }

  /// One token at a time gives what all at once give.
  @Test(arguments: cases)
  func theCacheChangesNothing(name: String) throws {
    let root = Fixtures.path("models/\(name)")
    let model = try CausalLanguageModel(directory: root)
    let (tokens, logits, _) = try expected(root)
    let cache = model.makeCache()
    for (index, token) in tokens.enumerated() {
      let found = try model.logits([token], cache: cache)
      let width = found.columns
      for column in 0..<width { #expect(abs(found[0, column] - logits[index * width + column]) <= 1e-4) }
    }
    #expect(cache.count == tokens.count)
  }

  @Test(arguments: cases)
  func theTreeIsPrintedAsPyTorchPrintsIt(name: String) throws {
    let root = Fixtures.path("models/\(name)")
    let model = try CausalLanguageModel(directory: root)
    #expect(try model.root.tree + "\n" == FileSystem.text("\(root)/tree.txt"))
    let names = model.root.namedModules().map(\.path).joined(separator: "\n") + "\n"
    #expect(try names == FileSystem.text("\(root)/names.txt"))
  }
}
