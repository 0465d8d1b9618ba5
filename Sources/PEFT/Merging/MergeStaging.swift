internal import TensorFiles

/// The directory in which the parts of a merge come together, hidden beside the output.
///
/// In it: `model`, which takes the output's name in the end; `manifest.json`, which the first part writes; and for each part that is
/// done a document that says so. What is called a part's document is whole, and so is what it stands for.
struct MergeStaging {
  let path: String

  init(output: String) { path = OutputDirectory.hiddenPath(beside: output, suffix: "parts") }

  /// Where the output's files are written.
  var model: String { FileSystem.join(path, "model") }
  private var manifestPath: String { FileSystem.join(path, "manifest.json") }
  private func documentPath(_ number: Int) -> String { FileSystem.join(path, "part-\(number).json") }

  /// Makes the directory if it is not there, and checks that it is this merge's.
  ///
  /// Parts may do this at the same time: whichever comes first, all find the same manifest.
  /// - Parameter source: a directory that it is as private as.
  /// Throws `.parts` with `.ofAnotherMerge`, `.badManifest`, `.leftOver`; `.file`.
  func begin(_ manifest: MergeManifest, output: String, like sources: [String]) throws(AdapterError) {
    try asAdapterError { () throws(TensorFileError) in
      guard FileSystem.kind(manifestPath) == nil else { return }
      try OutputDirectory.makeHidden(path, for: output, like: sources)
      try OutputDirectory.makeHidden(model, for: output, like: sources)
      try place(manifest.text, at: manifestPath, replacing: false)
    }
    try check(manifest)
    guard FileSystem.kind(model) == .directory else { throw .parts(.leftOver(staging: path)) }
  }

  /// The manifest of the parts that are there. Throws `.parts` with `.none`, `.badManifest`; `.file`.
  func manifest(output: String) throws(AdapterError) -> MergeManifest {
    guard FileSystem.kind(manifestPath) == .file else { throw .parts(.none(output: output, staging: path)) }
    return try MergeManifest(path: manifestPath)
  }

  /// Throws `.parts` with `.ofAnotherMerge`, `.badManifest`; `.file`.
  func check(_ manifest: MergeManifest) throws(AdapterError) {
    if let other = manifest.difference(to: try MergeManifest(path: manifestPath)) {
      throw .parts(.ofAnotherMerge(staging: path, what: other.what, found: other.found, expected: other.expected))
    }
  }

  /// Says that a part is done. Throws `.system`.
  func complete(_ part: MergePart, of manifest: MergeManifest, nonFinite: Set<String>) throws(TensorFileError) {
    let json = JSONValue.object([
      .init("part", .integer(part.number)), .init("of", .integer(part.count)), .init("merge", .string(manifest.digest)),
      .init("not_finite", .array(nonFinite.sorted().map { .string($0) })),
    ])
    try place(json.compactText + "\n", at: documentPath(part.number), replacing: true)
  }

  /// Checks that all parts are done. The names of tensors that they found not to be finite.
  ///
  /// Throws `.parts` with `.missing`, `.different`.
  func checkComplete(_ manifest: MergeManifest) throws(AdapterError) -> Set<String> {
    var (missing, different, nonFinite): ([Int], [Int], Set<String>) = ([], [], [])
    let digest = manifest.digest
    for number in 1...manifest.count {
      guard let json = try? JSONValue(contentsOf: documentPath(number)), json["part"] == .integer(number) else {
        missing.append(number)
        continue
      }
      if json["of"] != .integer(manifest.count) || json["merge"] != .string(digest) { different.append(number) }
      nonFinite.formUnion((json["not_finite"]?.elements ?? []).compactMap(\.stringValue))
    }
    guard missing.isEmpty else { throw .parts(.missing(staging: path, parts: missing, count: manifest.count)) }
    guard different.isEmpty else { throw .parts(.different(staging: path, parts: different, count: manifest.count)) }
    return nonFinite
  }

  /// Removes it with all in it; what cannot be removed is left.
  func discard() { try? FileSystem.remove(path) }

  /// Gives a whole text its name. Without `replacing`, what has the name already stays.
  private func place(_ text: String, at target: String, replacing: Bool) throws(TensorFileError) {
    let made = "\(target).\(UInt64.random(in: 0...UInt64.max))"
    do throws(TensorFileError) {
      let file = try OpenFile.create(made)
      try file.write(text)
      try file.synchronize()
      try FileSystem.move(made, to: target, replacing: replacing)
    } catch {
      try? FileSystem.remove(made)
      if case .outputExists = error { return }
      throw error
    }
  }
}
