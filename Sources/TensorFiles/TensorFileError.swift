/// What can be wrong with a file of tensors, or with reading and writing one. Each case carries the facts; the wording
/// is in `TensorFileError+Description.swift`.
public enum TensorFileError: Error, Sendable, Equatable {
  // The safetensors header, in the order in which it is checked.

  /// The file ends before the eight bytes of the header's length.
  case fileTooShort(path: String, byteCount: Int)
  /// The header's length is over the format's limit.
  case headerTooLarge(path: String, headerBytes: UInt64, limit: Int)
  /// The header reaches past the end of the file.
  case headerPastEnd(path: String, headerBytes: Int, fileBytes: Int)
  /// The header is not UTF-8.
  case headerNotUTF8(path: String, byteOffset: Int)
  /// The header begins with something other than white space or `{`, such as a byte-order mark.
  case headerStart(path: String, byte: UInt8)
  /// The header is not one JSON document.
  case headerNotJSON(path: String, byteOffset: Int, reason: String)
  /// A key stands twice in one object of the header.
  case duplicateKey(path: String, byteOffset: Int, near: String)
  /// The header's top level is no object.
  case headerNotObject(path: String)
  /// `__metadata__` is not an object of strings.
  case metadataNotStrings(path: String, key: String?)
  /// An entry lacks a field, or a field has the wrong form.
  case entryMalformed(path: String, tensor: String, field: String, found: String)
  /// A number in a shape or an offset is negative, fractional or out of range.
  case numberInvalid(path: String, tensor: String, field: String, found: String)
  /// A dtype that the format does not have.
  case dtypeUnknown(path: String, tensor: String, found: String)
  /// The shape's element or byte count overflows.
  case shapeOverflow(path: String, tensor: String, shape: [Int])
  /// A packed dtype whose bits do not fill whole bytes.
  case subByteMisaligned(path: String, tensor: String, dtype: DType, shape: [Int])
  /// An end offset before its begin offset.
  case offsetsReversed(path: String, tensor: String, begin: Int, end: Int)
  /// Shape and offsets disagree.
  case sizeMismatch(path: String, tensor: String, expectedBytes: Int, foundBytes: Int)
  /// A tensor's name has more parts than any model's.
  case nameTooDeep(path: String, tensor: String, limit: Int)
  /// A header or an index with more tensors than models have.
  case tooManyTensors(path: String, count: Int, limit: Int)
  /// Two tensors share bytes.
  case overlap(path: String, tensor: String, begin: Int, previousEnd: Int)
  /// Bytes between two tensors, or before the first, belong to none.
  case gap(path: String, tensor: String, begin: Int, previousEnd: Int)
  /// The file ends before the data does.
  case dataTruncated(path: String, tensor: String, expectedBytes: Int, foundBytes: Int)
  /// Bytes follow the last tensor.
  case trailingBytes(path: String, expectedBytes: Int, foundBytes: Int)
  /// A header to be written would be over the format's limit.
  case headerTooLargeToWrite(path: String, headerBytes: Int, limit: Int)

  // Files of torch.

  /// Neither a zip archive nor the stacked pickles of early releases.
  case notTorch(path: String)
  /// An archive that torch would not write, or that two readers could read differently.
  case archive(path: String, reason: String)
  /// A pickle that builds something else than a state dict.
  case pickleMalformed(path: String, byteOffset: Int, reason: String)
  /// An instruction that no state dict needs.
  case pickleOpcode(path: String, byteOffset: Int, opcode: UInt8)
  /// A name that no state dict needs.
  case pickleGlobal(path: String, byteOffset: Int, name: String)
  /// A tensor that does not lie within its storage.
  case torchTensor(path: String, tensor: String, reason: String)

  // GGUF files.

  /// A header of GGUF that does not read.
  case ggufMalformed(path: String, byteOffset: Int, reason: String)
  /// A tensor of GGUF whose type, shape or place cannot be.
  case ggufTensor(path: String, tensor: String, reason: String)

  // Sharded checkpoints.

  /// The index is no JSON object with a `weight_map` of strings.
  case indexMalformed(path: String, reason: String)
  /// The index names a file outside its own directory.
  case indexPathEscapes(path: String, shard: String)
  /// A shard that the index names does not exist.
  case shardMissing(path: String, shard: String, tensorCount: Int)
  /// The index says that a shard holds a tensor, but it does not.
  case tensorMissingFromShard(path: String, tensor: String, shard: String)
  /// A shard holds a tensor that the index does not list, or lists elsewhere.
  case tensorNotInIndex(path: String, tensor: String, shard: String, listedIn: String?)
  /// One shard of several, without the index of them.
  case shardAlone(path: String, count: Int)
  /// No checkpoint of a known form.
  case noCheckpoint(path: String, found: [String])

  // The file system.

  /// What should be a file is a directory, a pipe or a device.
  case notAFile(path: String)
  /// A name in a directory is not UTF-8.
  case nameNotUTF8(directory: String, name: [UInt8])
  /// A file of a model is a link to something outside of the model's directory.
  case linkOutside(path: String, target: String)
  /// A JSON file is larger than any configuration or index.
  case jsonTooLarge(path: String, byteCount: Int, limit: Int)
  /// A file of text is larger than what is read at once.
  case textTooLarge(path: String, byteCount: Int, limit: Int)
  /// A call failed.
  case system(path: String, operation: String, code: Int32)
  /// A file ended early while being read.
  case shortRead(path: String, byteOffset: Int, expectedBytes: Int, foundBytes: Int)
  /// The output exists and has something in it.
  case outputExists(path: String)
  /// What stands at the output is no directory, or the output's name is none.
  case outputNotDirectory(path: String)
  /// Another file system is mounted at the output.
  case outputIsMountPoint(path: String)
  /// The output is an input, or inside one, or around one.
  case outputOverlapsInput(output: String, input: String)
  /// Not enough room.
  case noSpace(path: String, neededBytes: Int, availableBytes: Int)
  /// A weight whose decomposition is needed has values that are not finite.
  case notDecomposable(path: String, tensor: String)
  /// An element of a merge's result is an infinity or a NaN; `cameSo` if what it was made from was none.
  case resultNotFinite(path: String, tensor: String, dtype: DType, element: [Int], cameSo: Bool)
  /// A JSON file that is not JSON.
  case jsonInvalid(path: String, line: Int, column: Int, reason: String)
}
