from tgi_core import contract

PUBLIC = """
ANY_LENGTH CONTRACT AdapterRows BackendKind BackendSpec BackendStats BlockCopy BlockPool BlockTables
Capabilities ChatDelta ChatServer Converter DType Dialect Engine EngineInfo Event Failure Feature
FinishReason Fork Grammar GrammarKind Handler HostLogits HttpReply HttpRequest HttpStream
LoadRequest LogitsRows Modality ModelCard ModelFiles ModelFormat PendingLogits PendingTokens
PluginModule Probe Progress PromptScored QueuePolicy ReasoningParser Request RequestFailed
RequestStarted Route SampledTokens SamplesOnDevice SamplingBatch SamplingParams Sizes Step
StepBackend StepStats StopRule TokenEvent TokenSpan TokenStream TokenUsage Tokenizer ToolCallDelta
ToolCallParser TopToken Verdict available_bytes check_contract choose_sizes DURATION_BOUNDS_S
BatchStats Distribution FinishedRequest FinishedSequence RequestSink CompiledGrammar
GrammarCompiler GuidanceEngine Matcher Vocabulary warm_up_with Embedded Embedding Embeds Pooling
PromptEmbedded pooled Adjustment Boost Command CommandTools Encoder
TaggedArguments AdapterLoaded AdapterRef HoldsAdapters version_of LinearShape LoraAdapter LowRank
cpu_flags read_peft SizeDefaults step_limits MemoryPlan Planner plan_sizes
EncodesImages Image ReadImage StepImage TwoWay most_adjacent
QuantizeWish Quantizer TakesAdapters TakesVocabulary
Draft DraftSetup DraftWish Drafter HoldsHeads Speculator
""".split()


def test_public_names_change_only_together_with_this_list_and_the_contracts_version():
    assert sorted(contract.__all__) == sorted(PUBLIC)
    assert contract.CONTRACT == (1, 0)  # grows until the first release


def test_every_public_name_exists():
    for name in contract.__all__:
        assert hasattr(contract, name)
