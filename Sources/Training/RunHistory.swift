internal import TensorFiles

/// What a run has told so far: the content of trainer_state.json.
struct RunHistory: Equatable {
  var log: [JSONValue] = []
  var bestMetric: Double?
  var bestStep: Int?
  var bestCheckpoint: String?
  /// The sum of the steps' losses since the last log, and all of it before.
  var lossSinceLog = 0.0
  var lossBefore = 0.0
  var loggedStep = 0
  var operations = 0.0

  /// Adds figures of a step, in the order in which transformers sorts them.
  mutating func add(_ members: [JSONValue.Member], _ step: Int, _ epoch: Double) -> JSONValue {
    let entry = JSONValue.object(members + [.init("epoch", .number(epoch)), .init("step", .integer(step))])
    log.append(entry)
    return entry
  }

  /// The text of trainer_state.json.
  ///
  /// Source: transformers/trainer_callback.py `TrainerState.save_to_json`.
  func text(_ plan: EventPlan, _ trainer: Trainer, epoch: Double, saves: Bool) -> String {
    let arguments = plan.arguments
    let control: [JSONValue.Member] = [
      .init("should_epoch_stop", .bool(false)), .init("should_evaluate", .bool(false)),
      .init("should_log", .bool(false)), .init("should_save", .bool(saves)),
      .init("should_training_stop", .bool(trainer.step >= trainer.steps)),
    ]
    let state: [JSONValue.Member] = [
      .init("best_global_step", bestStep.map { .integer($0) } ?? .null),
      .init("best_metric", bestMetric.map { .number($0) } ?? .null),
      .init("best_model_checkpoint", bestCheckpoint.map { .string($0) } ?? .null),
      .init("epoch", .number(epoch)),
      .init(
        "eval_steps",
        arguments.evaluationInterval == .steps || arguments.evaluationSteps != nil
          ? .integer(plan.evaluationSteps) : .integer(500)),
      .init("global_step", .integer(trainer.step)), .init("is_hyper_param_search", .bool(false)),
      .init("is_local_process_zero", .bool(true)), .init("is_world_process_zero", .bool(true)),
      .init("log_history", .array(log)), .init("logging_steps", .integer(plan.loggingSteps)),
      .init("max_steps", .integer(trainer.steps)), .init("num_input_tokens_seen", .integer(0)),
      .init("num_train_epochs", .integer(trainer.epochs)),
      .init("save_steps", .integer(plan.saveSteps)),
      .init(
        "stateful_callbacks",
        .object([
          .init("TrainerControl", .object([.init("args", .object(control)), .init("attributes", .object([]))]))
        ])),
      .init("total_flos", .number(operations)), .init("train_batch_size", .integer(arguments.batchSize)),
      .init("trial_name", .null), .init("trial_params", .null),
    ]
    return JSONValue.object(state).pythonText(sortedKeys: true) + "\n"
  }

  /// What a checkpoint of this package keeps beside trainer_state.json.
  var json: JSONValue {
    .object([
      .init("loss_since_log", .number(lossSinceLog)), .init("loss_before", .number(lossBefore)),
      .init("logged_step", .integer(loggedStep)),
    ])
  }

  init() {}

  /// Reads both parts; nil if a figure is missing.
  init?(state: JSONValue, own: JSONValue) {
    guard let log = state["log_history"]?.elements, let since = own["loss_since_log"]?.numberValue,
      let before = own["loss_before"]?.numberValue, let logged = own["logged_step"]?.integerValue
    else { return nil }
    self.log = log
    (lossSinceLog, lossBefore, loggedStep) = (since, before, logged)
    bestMetric = state["best_metric"]?.numberValue
    bestStep = state["best_global_step"]?.integerValue
    bestCheckpoint = state["best_model_checkpoint"]?.stringValue
    operations = state["total_flos"]?.numberValue ?? 0
  }
}
