public import PEFT
public import TensorFiles

/// What can be wrong with a model, its tokenizer, or what is asked of it.
public enum ModelError: Error, Sendable, Equatable {
  /// An adapter or a base model, as the file tool sees it.
  case adapter(AdapterError)
  /// A file or the file system.
  case file(TensorFileError)
  /// config.json is missing.
  case configMissing(path: String)
  /// A key of config.json, or of another JSON file, holds what it should not.
  case configValue(path: String, key: String, expected: String, found: String)
  /// A model with another head than a language model's, or none.
  case notCausal(path: String, BaseModel.OtherKind)
  /// No architecture of that `model_type`.
  case unknownModelType(path: String, found: String, known: [String])
  /// A parameter that the architecture has and the checkpoint has not.
  case parameterMissing(path: String, name: String)
  /// A checkpoint whose parameters are quantized.
  case quantized(path: String, method: String)
  /// A parameter of another shape than config.json says.
  case parameterShape(path: String, name: String, expected: [Int], found: [Int])
  /// A parameter that is not f32, f16, bf16 or f64.
  case parameterType(path: String, name: String, found: String)
  /// The input is longer than the model's context.
  case contextTooLong(tokens: Int, limit: Int)
  /// A token id outside the vocabulary.
  case tokenOutside(id: Int, vocabulary: Int)
  /// No tokenizer.json, nor vocab.json and merges.txt.
  case tokenizerMissing(path: String)
  /// A part of tokenizer.json that is not known here.
  case tokenizerComponent(path: String, part: String, found: String)
  /// A tokenizer file that makes more work of a text than a tokenizer does.
  case tokenizerTooCostly(path: String)
  /// The tokenizer knows ids that the model has no embedding for.
  case tokenizerDoesNotFit(path: String, largestID: Int, vocabulary: Int)
  /// A chat template that is not one of those that are understood.
  case templateNotUnderstood(path: String, reason: String)
  /// Something that is asked for and not possible, with the reason.
  case unsupported(what: String, reason: String)
  /// No adapter of that name on the model.
  case noSuchAdapter(name: String, known: [String])
}

extension ModelError: CustomStringConvertible {
  /// One line: what, where, found against expected, and the remedy.
  public var description: String {
    switch self {
    case .adapter(let error): error.description
    case .file(let error): error.description
    case .configMissing(let path): "\(path): no config.json. Is this a model's directory?"
    case .configValue(let path, let key, let expected, let found):
      "\(path): \(key) is \(found); expected \(expected)."
    case .notCausal(let path, .architecture(let name)):
      "\(path): architectures names \(name), which is no causal language model: nothing can be generated with it."
    case .notCausal(let path, .head(let tensor)):
      "\(path): the checkpoint holds '\(tensor)' and no language head: it is no causal language model."
    case .unknownModelType(let path, let found, let known):
      "\(path): model_type '\(found)' is not one that can be run here: \(known.joined(separator: ", "))."
    case .parameterMissing(let path, let name): "\(path): the parameter '\(name)' is not in the checkpoint."
    case .quantized(let path, let method):
      "\(path): is quantized (\(method)), and only f32, f16, bf16 and f64 can be run. Use the 16-bit model that it was made from."
    case .parameterShape(let path, let name, let expected, let found):
      "\(path): '\(name)' is \(found); config.json implies \(expected)."
    case .parameterType(let path, let name, let found):
      "\(path): '\(name)' is stored as \(found); f32, f16, bf16 and f64 can be run. De-quantise the model first."
    case .contextTooLong(let tokens, let limit):
      "\(tokens) tokens do not fit into the model's context of \(limit). Shorten the prompt or ask for fewer new tokens."
    case .tokenOutside(let id, let vocabulary):
      "token \(id) lies outside the model's vocabulary of \(vocabulary). Does the tokenizer belong to the model?"
    case .tokenizerMissing(let path): "\(path): no tokenizer.json, and no vocab.json with merges.txt."
    case .tokenizerComponent(let path, let part, let found): "\(path): the \(part) '\(found)' is not known here."
    case .tokenizerTooCostly(let path):
      "\(path): the tokenizer's rules make more work of the text than any model's tokenizer does. The file is damaged or made to harm."
    case .tokenizerDoesNotFit(let path, let largestID, let vocabulary):
      "\(path): the tokenizer has the id \(largestID), and the model embeds \(vocabulary) tokens. It belongs to another model."
    case .templateNotUnderstood(let path, let reason): "\(path): the chat template is not understood: \(reason)"
    case .unsupported(let what, let reason): "\(what): \(reason)"
    case .noSuchAdapter(let name, let known):
      "no adapter is called '\(name)'; there is \(known.isEmpty ? "none" : known.joined(separator: ", "))."
    }
  }
}

/// Runs work on files, its errors as `ModelError`.
package func asModelError<Result>(_ body: () throws(TensorFileError) -> Result) throws(ModelError) -> Result {
  do throws(TensorFileError) { return try body() } catch { throw .file(error) }
}

/// Runs work of the library PEFT, its errors as `ModelError`.
package func withAdapterErrors<Result>(_ body: () throws(AdapterError) -> Result) throws(ModelError) -> Result {
  do throws(AdapterError) { return try body() } catch { throw .adapter(error) }
}
