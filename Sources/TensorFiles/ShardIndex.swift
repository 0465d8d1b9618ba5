/// `model.safetensors.index.json`: which shard holds which tensor.
public struct ShardIndex: Sendable {
  public let path: String
  /// The whole document, for what a copy must keep.
  public let document: JSONValue
  /// Shards in the order of their names, each with its tensors.
  public let tensorsByShard: [(shard: String, tensors: [String])]
  /// The shard of each tensor.
  package let shardOfTensor: [ExactName: String]

  /// Throws `.jsonInvalid`, `.indexMalformed`, `.tooManyTensors`, and `.indexPathEscapes` for a shard that is no plain file name.
  public init(path: String) throws(TensorFileError) {
    let document = try JSONValue(contentsOf: path)
    guard let map = document["weight_map"]?.members else {
      throw .indexMalformed(path: path, reason: "no object 'weight_map'")
    }
    guard !map.isEmpty else { throw .indexMalformed(path: path, reason: "'weight_map' is empty") }
    guard map.count <= SafetensorsFile.tensorLimit else {
      throw .tooManyTensors(path: path, count: map.count, limit: SafetensorsFile.tensorLimit)
    }
    var byShard: [ExactName: [String]] = [:]
    var shardOfTensor: [ExactName: String] = [:]
    for member in map {
      guard let shard = member.value.stringValue else {
        throw .indexMalformed(path: path, reason: "'weight_map' entry '\(member.key)' is not a string")
      }
      guard !shard.isEmpty, shard != ".", shard != "..", !shard.utf8.contains(where: { $0 == 0x2F || $0 == 0 })
      else { throw .indexPathEscapes(path: path, shard: shard) }
      byShard[shard, default: []].append(member.key)
      shardOfTensor[member.key] = shard
    }
    self.path = path
    self.document = document
    self.shardOfTensor = shardOfTensor
    tensorsByShard = byShard.sorted { $0.key < $1.key }.map { ($0.key.text, $0.value) }
  }

  /// The text of an index as transformers writes it: indent 2, sorted keys, a final newline.
  ///
  /// `metadata` of `previous` is kept, its `total_size` set anew.
  public static func text(
    shardOfTensor: [ExactName: String], totalBytes: Int, previous: JSONValue?
  ) -> String {
    var metadata = previous?["metadata"] ?? .object([])
    if metadata.members == nil { metadata = .object([]) }
    metadata["total_size"] = .integer(totalBytes)
    let map = shardOfTensor.sorted { $0.key < $1.key }.map { JSONValue.Member($0.key.text, .string($0.value)) }
    let document = JSONValue.object([
      JSONValue.Member("metadata", metadata), JSONValue.Member("weight_map", .object(map)),
    ])
    return document.pythonText(sortedKeys: true) + "\n"
  }
}
