extension TensorFileError: CustomStringConvertible {
  /// One sentence or two: where, what, found against expected, remedy.
  public var description: String {
    switch self {
    case .fileTooShort(let path, let count):
      "\(path): not a safetensors file: \(count) bytes, but the header's length alone takes 8. "
        + "Download or save the file again."
    case .headerTooLarge(let path, let bytes, let limit):
      "\(path): the header claims \(bytes) bytes; the format allows \(limit). "
        + "This is not a safetensors file, or its first 8 bytes are damaged."
    case .headerPastEnd(let path, let header, let file):
      "\(path): the header claims \(header) bytes after the first 8, but the file has \(file) in all. "
        + "Download or save the file again."
    case .headerNotUTF8(let path, let offset):
      "\(path): the header is not UTF-8 near byte \(offset). The file is damaged."
    case .headerStart(let path, let byte):
      "\(path): the header begins with byte \(byte); expected '{'. The file is damaged."
    case .headerNotJSON(let path, let offset, let reason):
      "\(path): the header is not valid JSON at byte \(offset): \(reason). The file is damaged."
    case .duplicateKey(let path, let offset, let near):
      "\(path): a key stands twice in the header, at byte \(offset)\(near.isEmpty ? "" : " near \(near)"). "
        + "Which of the two is meant is unknown; save the file again."
    case .headerNotObject(let path):
      "\(path): the header is valid JSON but not an object. The file is damaged."
    case .metadataNotStrings(let path, let key):
      "\(path): __metadata__\(key.map { " entry '\($0)'" } ?? "") must be strings only. Save the file again."
    case .entryMalformed(let path, let tensor, let field, let found):
      "\(path): tensor '\(tensor)': \(field): found \(found). Each entry needs dtype, shape and two data_offsets."
    case .numberInvalid(let path, let tensor, let field, let found):
      "\(path): tensor '\(tensor)': \(field) holds \(found); expected a whole number from 0 to 2^63-1."
    case .dtypeUnknown(let path, let tensor, let found):
      "\(path): tensor '\(tensor)': unknown dtype '\(found)'. Known: "
        + DType.allCases.map(\.rawValue).joined(separator: ", ") + "."
    case .shapeOverflow(let path, let tensor, let shape):
      "\(path): tensor '\(tensor)': shape \(shape) has more bytes than can be counted. The file is damaged."
    case .subByteMisaligned(let path, let tensor, let dtype, let shape):
      "\(path): tensor '\(tensor)': \(dtype.rawValue) of shape \(shape) does not fill whole bytes."
    case .offsetsReversed(let path, let tensor, let begin, let end):
      "\(path): tensor '\(tensor)': data_offsets end at \(end), before they begin at \(begin)."
    case .sizeMismatch(let path, let tensor, let expected, let found):
      "\(path): tensor '\(tensor)': its shape and dtype need \(expected) bytes, its data_offsets span \(found)."
    case .nameTooDeep(let path, let tensor, let limit):
      "\(path): the name of tensor '\(tensor.prefix(100))…' has over \(limit) parts between dots; models do not nest so "
        + "deeply. The file is damaged, or holds no model."
    case .overlap(let path, let tensor, let begin, let previous):
      "\(path): tensor '\(tensor)' begins at data byte \(begin), inside the tensor before it, which ends at \(previous)."
    case .gap(let path, let tensor, let begin, let previous):
      "\(path): tensor '\(tensor)' begins at data byte \(begin), but the tensor before it ends at \(previous): "
        + "bytes between tensors are not allowed."
    case .dataTruncated(let path, let tensor, let expected, let found):
      "\(path): the file has \(found) bytes of data, tensor '\(tensor)' ends at \(expected). "
        + "The download was cut short; fetch it again."
    case .trailingBytes(let path, let expected, let found):
      "\(path): \(found) bytes of data, but the tensors end at \(expected): bytes after the last tensor are not allowed."
    case .tooManyTensors(let path, let count, let limit):
      "\(path): \(count) tensors; a model may have \(limit). Store experts stacked, in one tensor a layer."
    case .headerTooLargeToWrite(let path, let bytes, let limit):
      "\(path): the header would take \(bytes) bytes; the format allows \(limit). Use smaller shards."
    case .indexMalformed(let path, let reason):
      "\(path): not an index of shards: \(reason)."
    case .indexPathEscapes(let path, let shard):
      "\(path): names the shard '\(shard)', which is not a plain file in the same directory."
    case .shardMissing(let path, let shard, let count):
      "\(path): the shard '\(shard)' with \(count) tensor\(count == 1 ? "" : "s") does not exist. "
        + "Download the checkpoint again."
    case .tensorMissingFromShard(let path, let tensor, let shard):
      "\(path): lists tensor '\(tensor)' in '\(shard)', which does not hold it. The index is stale."
    case .tensorNotInIndex(let path, let tensor, let shard, let listed):
      "\(path): '\(shard)' holds tensor '\(tensor)', which the index "
        + (listed.map { "lists in '\($0)'" } ?? "does not list") + ". The index is stale or the tensor is there twice."
    case .shardAlone(let path, let count):
      "\(path): one shard of \(count), and no index says what the others hold. Give the index or the directory with all of "
        + "them; download what is missing."
    case .noCheckpoint(let path, let found):
      "\(path): no model.safetensors, no model.safetensors.index.json, no pytorch_model.bin and no single file of tensors"
        + (found.isEmpty
          ? "." : " (found \(found.joined(separator: ", "))).")
    case .system(let path, let operation, let code):
      "\(path): cannot \(operation): \(systemMessage(code))"
    case .shortRead(let path, let offset, let expected, let found):
      "\(path): read \(found) of \(expected) bytes at \(offset): the file was cut while it was being read."
    case .outputExists(let path):
      "\(path): exists and is not empty. Choose another output."
    case .outputNotDirectory(let path):
      "\(path.isEmpty ? "''" : path): not a place for a new directory: it is taken by something else. "
        + "Choose another output."
    case .outputIsMountPoint(let path):
      "\(path): another file system is mounted there, so it cannot be exchanged for the output. "
        + "Choose a directory inside it."
    case .nameNotUTF8(let directory, let name):
      "\(directory): holds the name '\(escaped(name))', which is not UTF-8. Rename or remove it."
    case .linkOutside(let path, let target):
      "\(path): a link that leads out of the model's directory, to \(target); it is not read. "
        + "Put the file itself in its place, or remove the link."
    case .notAFile(let path): "\(path): not a regular file."
    case .jsonTooLarge(let path, let count, let limit):
      "\(path): \(count) bytes; at most \(limit) are read as JSON. This is not a configuration or an index."
    case .textTooLarge(let path, let count, let limit):
      "\(path): \(count) bytes; at most \(limit) are read as such a text. Check the file, or divide it."
    case .outputOverlapsInput(let output, let input):
      "\(output): the output may not be, contain or lie inside the input \(input). Choose another output."
    case .noSpace(let path, let needed, let available):
      "\(path): \(needed) bytes needed, \(available) free. Make room or choose another output."
    case .notTorch(let path):
      "\(path): not a file of torch: it begins neither as a zip archive nor as the pickles of torch before 1.6."
    case .archive(let path, let reason):
      "\(path): refused: \(reason). Save it again with torch.save, or as safetensors."
    case .pickleMalformed(let path, let offset, let reason):
      "\(path): byte \(offset): not the pickle of a state dict: \(reason). Save the state dict alone, best as safetensors."
    case .pickleOpcode(let path, let offset, let opcode):
      "\(path): byte \(offset): refused: instruction 0x\(String(opcode, radix: 16)) is none that a state dict needs."
    case .pickleGlobal(let path, let offset, let name):
      "\(path): byte \(offset): refused: '\(name)' is no name that a state dict needs. The file may be malicious; "
        + "nothing in it was run."
    case .torchTensor(let path, let tensor, let reason): "\(path): tensor '\(tensor)': \(reason). The file is damaged."
    case .ggufMalformed(let path, let offset, let reason):
      "\(path): byte \(offset): \(reason). The file is damaged or no GGUF file; fetch or convert it again."
    case .ggufTensor(let path, let tensor, let reason):
      "\(path): tensor '\(tensor)': \(reason). The file is damaged; fetch or convert it again."
    case .notDecomposable(let path, let tensor):
      "\(path): tensor '\(tensor)' holds values that are not finite, so the decomposition that the adapter needs does not "
        + "exist. Check the base."
    case .resultNotFinite(let path, let tensor, let dtype, let element, let cameSo):
      "\(path): tensor '\(tensor)': element \(element) "
        + (cameSo
          ? "is infinite or not a number before the merge already. Nothing was written. Check the file"
          : "comes out infinite or not a number: \(dtype.rawValue) holds no more than \(dtype.greatestText). Nothing was "
            + "written. Merge into a base of a wider dtype, or with a smaller weight")
        + "."
    case .jsonInvalid(let path, let line, let column, let reason):
      "\(path): line \(line), column \(column): not valid JSON: \(reason)."
    }
  }
}

extension DType {
  /// The greatest finite value of a computable dtype.
  fileprivate var greatestText: String {
    switch self {
    case .f16: "65504"
    case .bf16: "3.39e38"
    case .f32: "3.40e38"
    default: "1.80e308"
    }
  }
}

/// A name whose bytes are not ASCII shown as numbers.
private func escaped(_ name: [UInt8]) -> String {
  name.map { byte in
    (0x20..<0x7F).contains(byte)
      ? String(Unicode.Scalar(byte)) : "\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
  }.joined()
}
