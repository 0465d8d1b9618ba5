import LanguageModels
import PEFT
import TensorFiles
import TestSupport
import Testing

@testable import Training

/// A recorded adapter with a configuration that is changed, and what the refusal names.
private struct Refusal: Sendable, CustomTestStringConvertible {
  let run: String
  var part = "before"
  let change: (key: String, value: JSONValue)?
  let names: String
  var testDescription: String { "\(run) with \(change?.key ?? part)" }

  static let all = [
    Refusal(run: "llama-p-tuning", part: "after", change: nil, names: "P_TUNING"),
    Refusal(run: "llama-prefix-projection", part: "after", change: nil, names: "prefix_projection"),
    Refusal(run: "llama-adalora", part: "after", change: nil, names: "pruned"),
    Refusal(
      run: "llama-lora", change: ("alora_invocation_tokens", .array([.integer(5)])), names: "alora_invocation_tokens"),
    Refusal(run: "llama-lora", change: ("init_lora_weights", .string("pissa")), names: "pissa"),
    Refusal(run: "llama-head-saved", change: ("ensure_weight_tying", .bool(true)), names: "ensure_weight_tying"),
    Refusal(run: "llama-head-saved", change: ("modules_to_save", .null), names: "lm_head"),
    Refusal(
      run: "llama-tokens", change: ("trainable_token_indices", .array([1, 2, 3, 96].map { .integer($0) })), names: "96"),
  ]
}

@Suite struct RefusalTests {
  @Test(arguments: Refusal.all)
  fileprivate func whatIsNotTrainedIsRefusedByName(refusal: Refusal) throws {
    let scratch = try ScratchDirectory()
    let source = Fixtures.path("training/\(refusal.run)")
    try copyDirectory("\(source)/\(refusal.part)", to: scratch("adapter"))
    if let change = refusal.change {
      var json = try JSONValue(contentsOf: scratch("adapter/adapter_config.json"))
      json[change.key] = change.value
      try overwrite(scratch("adapter/adapter_config.json"), json.compactText)
    }
    let base = try JSONValue(contentsOf: "\(source)/run.json")["base"]?.stringValue ?? ""
    let model = try CausalLanguageModel(directory: Fixtures.path("training/bases/\(base)"))
    let adapter = try StoredAdapter(directory: scratch("adapter"))
    let error = #expect(throws: ModelError.self) { try TrainableModel(model, adapter: adapter) }
    guard case .unsupported? = error else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect("\(error.map(String.init(describing:)) ?? "")".contains(refusal.names))
  }

  @Test func recordsThatVirtualTokensPushOutOfTheContextAreRefused() throws {
    let model = try CausalLanguageModel(directory: Fixtures.path("training/bases/gpt2"))
    let adapter = try StoredAdapter(directory: Fixtures.path("training/gpt2-prompt/before"))
    let trained = try TrainableModel(model, adapter: adapter)
    let record = { (count: Int) in
      TrainingRecord(tokens: [Int](repeating: 5, count: count), labels: [Int](repeating: 5, count: count))
    }
    try trained.check([record(61)], path: "data")
    let error = #expect(throws: TrainingError.self) { try trained.check([record(62)], path: "data") }
    #expect("\(error.map(String.init(describing:)) ?? "")".contains("--max-length 61"))
  }
}
