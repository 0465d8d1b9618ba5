internal import PEFT
internal import TensorFiles

extension Command {
  /// The invocation with repositories' names replaced by the directories that hold them.
  ///
  /// A word that leads somewhere is a path. All words are looked at before anything is downloaded.
  /// Throws what `Hub.directory(of:)` throws, and `UsageError` for a path that is to be read and is not there.
  func locatingModels(_ invocation: Invocation, report: @escaping (HubProgress) -> Void) throws -> Invocation {
    let hub = Hub(isOffline: invocation.has("offline"))
    func words(_ change: (ModelWord) throws -> String) throws -> Invocation {
      var changed = invocation
      for (index, word) in invocation.operands.enumerated() {
        let operand = operand(at: index, of: invocation.operands.count)
        guard operand.isModel || operand.takes == .file, !(operand.mayBeInput && word == "-") else { continue }
        changed.operands[index] = try change(
          ModelWord(word, as: operand.name, isModel: operand.isModel, isWeighted: operand.isWeighted))
      }
      for flag in flags where flag.isModel {
        let located = try invocation.all(flag.name).map {
          try change(ModelWord($0, as: "--\(flag.name)", isModel: true, isWeighted: flag.repeats))
        }
        if !located.isEmpty { changed.values[flag.name] = located }
      }
      return changed
    }
    _ = try words { word in
      try word.check(hub)
      return word.text
    }
    return try words { try $0.located(hub, report) }
  }

  /// The operand that a word stands for: a repeating one takes what the others leave.
  func operand(at index: Int, of count: Int) -> Operand {
    guard let repeating = operands.firstIndex(where: \.repeats) else { return operands[min(index, operands.count - 1)] }
    let after = operands.count - 1 - repeating
    if index < repeating { return operands[index] }
    return index >= count - after ? operands[operands.count - (count - index)] : operands[repeating]
  }
}

/// A word that names what a command reads: a path, or a repository where it is a model, with a weight after an adapter.
struct ModelWord {
  let text: String
  /// What the command calls it.
  private let name: String
  private let isModel: Bool
  private let isWeighted: Bool

  init(_ text: String, as name: String, isModel: Bool, isWeighted: Bool) {
    (self.text, self.name, self.isModel, self.isWeighted) = (text, name, isModel, isWeighted)
  }

  /// The word before a weight and the weight, or the whole word.
  private func parts(_ hub: Hub) throws(AdapterError) -> (place: String, weight: String?) {
    guard isWeighted, FileSystem.kind(text) == nil, let colon = text.lastIndex(of: ":") else { return (text, nil) }
    let (place, weight) = (String(text[..<colon]), String(text[text.index(after: colon)...]))
    // In "hf://owner/name" no weight follows the colon.
    guard !weight.contains("/") else { return (text, nil) }
    if Double(weight) != nil || FileSystem.kind(place) != nil { return (place, weight) }
    return try repository(place, hub) == nil ? (text, nil) : (place, weight)
  }

  /// The repository that a word names; nil for a path, which every word is that leads somewhere.
  static func repository(_ word: String, _ hub: Hub) throws(AdapterError) -> Repository? {
    FileSystem.kind(word) == nil ? try Repository(address: word, endpoint: hub.endpoint) : nil
  }

  private func repository(_ place: String, _ hub: Hub) throws(AdapterError) -> Repository? {
    isModel ? try Self.repository(place, hub) : nil
  }

  /// Throws if the word leads nowhere, as far as can be said without the hub, and for a weight that is none.
  func check(_ hub: Hub) throws {
    let (place, weight) = try parts(hub)
    guard try FileSystem.kind(place) != nil || repository(place, hub) != nil else {
      throw UsageError.noSuchPath(path: place, operand: name)
    }
    guard weight.map({ Double($0)?.isFinite == true }) ?? true else {
      throw UsageError.badWeight(adapter: place, found: weight ?? "")
    }
  }

  /// The word with a directory in the place of a repository's name.
  func located(_ hub: Hub, _ report: @escaping (HubProgress) -> Void) throws -> String {
    let (place, weight) = try parts(hub)
    guard let repository = try repository(place, hub) else { return text }
    return try directory(of: repository, hub, report) + (weight.map { ":\($0)" } ?? "")
  }

  private func directory(
    of repository: Repository, _ hub: Hub, _ report: @escaping (HubProgress) -> Void
  ) throws -> String {
    do { return try hub.directory(of: repository, report: report) } catch {
      // A name alone is as likely a path that is not there.
      guard !text.contains("/") else { throw error }
      switch error {
      case .notInCache, .hubRefused, .download:
        let facts = error.facts
        throw UsageError.noSuchModel(
          name: repository.name, operand: name, reason: String(facts.dropFirst(repository.name.count + 2)))
      default: throw error
      }
    }
  }
}
