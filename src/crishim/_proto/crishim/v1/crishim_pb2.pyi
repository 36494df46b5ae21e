import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TcpMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TCP_MODE_UNSPECIFIED: _ClassVar[TcpMode]
    TCP_MODE_ESTABLISHED: _ClassVar[TcpMode]
    TCP_MODE_CLOSE: _ClassVar[TcpMode]
    TCP_MODE_REFUSE: _ClassVar[TcpMode]

class AddressMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADDRESS_MODE_UNSPECIFIED: _ClassVar[AddressMode]
    ADDRESS_MODE_KEEP: _ClassVar[AddressMode]
    ADDRESS_MODE_NEW: _ClassVar[AddressMode]

class FailureMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_MODE_UNSPECIFIED: _ClassVar[FailureMode]
    FAILURE_MODE_FAIL: _ClassVar[FailureMode]
    FAILURE_MODE_COLD: _ClassVar[FailureMode]
TCP_MODE_UNSPECIFIED: TcpMode
TCP_MODE_ESTABLISHED: TcpMode
TCP_MODE_CLOSE: TcpMode
TCP_MODE_REFUSE: TcpMode
ADDRESS_MODE_UNSPECIFIED: AddressMode
ADDRESS_MODE_KEEP: AddressMode
ADDRESS_MODE_NEW: AddressMode
FAILURE_MODE_UNSPECIFIED: FailureMode
FAILURE_MODE_FAIL: FailureMode
FAILURE_MODE_COLD: FailureMode

class CheckpointContainerRequest(_message.Message):
    __slots__ = ("container_id", "output_path", "name", "stop", "tcp", "timeout_s", "force")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PATH_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    TCP_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    output_path: str
    name: str
    stop: bool
    tcp: TcpMode
    timeout_s: int
    force: bool
    def __init__(self, container_id: _Optional[str] = ..., output_path: _Optional[str] = ..., name: _Optional[str] = ..., stop: bool = ..., tcp: _Optional[_Union[TcpMode, str]] = ..., timeout_s: _Optional[int] = ..., force: bool = ...) -> None: ...

class CheckpointContainerProgress(_message.Message):
    __slots__ = ("phase", "result")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    phase: Phase
    result: CheckpointResult
    def __init__(self, phase: _Optional[_Union[Phase, _Mapping]] = ..., result: _Optional[_Union[CheckpointResult, _Mapping]] = ...) -> None: ...

class RestoreContainerRequest(_message.Message):
    __slots__ = ("container_id", "checkpoint", "address", "tcp", "on_failure", "start", "timeout_s", "source_container_id", "allow_privileges")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TCP_FIELD_NUMBER: _ClassVar[int]
    ON_FAILURE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    SOURCE_CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    ALLOW_PRIVILEGES_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    checkpoint: str
    address: AddressMode
    tcp: TcpMode
    on_failure: FailureMode
    start: bool
    timeout_s: int
    source_container_id: str
    allow_privileges: bool
    def __init__(self, container_id: _Optional[str] = ..., checkpoint: _Optional[str] = ..., address: _Optional[_Union[AddressMode, str]] = ..., tcp: _Optional[_Union[TcpMode, str]] = ..., on_failure: _Optional[_Union[FailureMode, str]] = ..., start: bool = ..., timeout_s: _Optional[int] = ..., source_container_id: _Optional[str] = ..., allow_privileges: bool = ...) -> None: ...

class RestoreContainerProgress(_message.Message):
    __slots__ = ("phase", "result")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    phase: Phase
    result: RestoreResult
    def __init__(self, phase: _Optional[_Union[Phase, _Mapping]] = ..., result: _Optional[_Union[RestoreResult, _Mapping]] = ...) -> None: ...

class Phase(_message.Message):
    __slots__ = ("name", "elapsed_us", "bytes_done", "bytes_total")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_US_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    name: str
    elapsed_us: int
    bytes_done: int
    bytes_total: int
    def __init__(self, name: _Optional[str] = ..., elapsed_us: _Optional[int] = ..., bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ...) -> None: ...

class CheckpointResult(_message.Message):
    __slots__ = ("path", "name", "info", "statistics", "warnings")
    PATH_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    path: str
    name: str
    info: CheckpointInfo
    statistics: Statistics
    warnings: _containers.RepeatedCompositeFieldContainer[Warning]
    def __init__(self, path: _Optional[str] = ..., name: _Optional[str] = ..., info: _Optional[_Union[CheckpointInfo, _Mapping]] = ..., statistics: _Optional[_Union[Statistics, _Mapping]] = ..., warnings: _Optional[_Iterable[_Union[Warning, _Mapping]]] = ...) -> None: ...

class RestoreResult(_message.Message):
    __slots__ = ("container_id", "addresses", "statistics", "warnings")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    statistics: Statistics
    warnings: _containers.RepeatedCompositeFieldContainer[Warning]
    def __init__(self, container_id: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., statistics: _Optional[_Union[Statistics, _Mapping]] = ..., warnings: _Optional[_Iterable[_Union[Warning, _Mapping]]] = ...) -> None: ...

class Warning(_message.Message):
    __slots__ = ("kind", "pid", "what", "cure")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    CURE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    pid: int
    what: str
    cure: str
    def __init__(self, kind: _Optional[str] = ..., pid: _Optional[int] = ..., what: _Optional[str] = ..., cure: _Optional[str] = ...) -> None: ...

class Statistics(_message.Message):
    __slots__ = ("freeze_us", "total_us", "image_bytes", "layer_bytes", "archive_bytes", "phases", "criu_freezing_us", "criu_frozen_us", "criu_memdump_us", "criu_memwrite_us", "criu_pages_scanned", "criu_pages_written", "frozen_us")
    FREEZE_US_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAYER_BYTES_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    CRIU_FREEZING_US_FIELD_NUMBER: _ClassVar[int]
    CRIU_FROZEN_US_FIELD_NUMBER: _ClassVar[int]
    CRIU_MEMDUMP_US_FIELD_NUMBER: _ClassVar[int]
    CRIU_MEMWRITE_US_FIELD_NUMBER: _ClassVar[int]
    CRIU_PAGES_SCANNED_FIELD_NUMBER: _ClassVar[int]
    CRIU_PAGES_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    FROZEN_US_FIELD_NUMBER: _ClassVar[int]
    freeze_us: int
    total_us: int
    image_bytes: int
    layer_bytes: int
    archive_bytes: int
    phases: _containers.RepeatedCompositeFieldContainer[PhaseTime]
    criu_freezing_us: int
    criu_frozen_us: int
    criu_memdump_us: int
    criu_memwrite_us: int
    criu_pages_scanned: int
    criu_pages_written: int
    frozen_us: int
    def __init__(self, freeze_us: _Optional[int] = ..., total_us: _Optional[int] = ..., image_bytes: _Optional[int] = ..., layer_bytes: _Optional[int] = ..., archive_bytes: _Optional[int] = ..., phases: _Optional[_Iterable[_Union[PhaseTime, _Mapping]]] = ..., criu_freezing_us: _Optional[int] = ..., criu_frozen_us: _Optional[int] = ..., criu_memdump_us: _Optional[int] = ..., criu_memwrite_us: _Optional[int] = ..., criu_pages_scanned: _Optional[int] = ..., criu_pages_written: _Optional[int] = ..., frozen_us: _Optional[int] = ...) -> None: ...

class PhaseTime(_message.Message):
    __slots__ = ("name", "start_us", "duration_us")
    NAME_FIELD_NUMBER: _ClassVar[int]
    START_US_FIELD_NUMBER: _ClassVar[int]
    DURATION_US_FIELD_NUMBER: _ClassVar[int]
    name: str
    start_us: int
    duration_us: int
    def __init__(self, name: _Optional[str] = ..., start_us: _Optional[int] = ..., duration_us: _Optional[int] = ...) -> None: ...

class CheckpointInfo(_message.Message):
    __slots__ = ("name", "path", "container_id", "container_name", "pod_name", "pod_namespace", "pod_uid", "image", "created_at", "source_running", "archive_bytes", "addresses", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_NAME_FIELD_NUMBER: _ClassVar[int]
    POD_NAME_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_RUNNING_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    container_id: str
    container_name: str
    pod_name: str
    pod_namespace: str
    pod_uid: str
    image: str
    created_at: _timestamp_pb2.Timestamp
    source_running: bool
    archive_bytes: int
    addresses: _containers.RepeatedScalarFieldContainer[str]
    error: str
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ..., container_id: _Optional[str] = ..., container_name: _Optional[str] = ..., pod_name: _Optional[str] = ..., pod_namespace: _Optional[str] = ..., pod_uid: _Optional[str] = ..., image: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., source_running: bool = ..., archive_bytes: _Optional[int] = ..., addresses: _Optional[_Iterable[str]] = ..., error: _Optional[str] = ...) -> None: ...

class ListCheckpointsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListCheckpointsResponse(_message.Message):
    __slots__ = ("checkpoints", "waiting")
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    checkpoints: _containers.RepeatedCompositeFieldContainer[CheckpointInfo]
    waiting: _containers.RepeatedCompositeFieldContainer[Waiting]
    def __init__(self, checkpoints: _Optional[_Iterable[_Union[CheckpointInfo, _Mapping]]] = ..., waiting: _Optional[_Iterable[_Union[Waiting, _Mapping]]] = ...) -> None: ...

class Waiting(_message.Message):
    __slots__ = ("path", "name", "addresses", "since", "container_id", "pod_sandbox_id")
    PATH_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    POD_SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    path: str
    name: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    since: _timestamp_pb2.Timestamp
    container_id: str
    pod_sandbox_id: str
    def __init__(self, path: _Optional[str] = ..., name: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., container_id: _Optional[str] = ..., pod_sandbox_id: _Optional[str] = ...) -> None: ...

class RemoveCheckpointRequest(_message.Message):
    __slots__ = ("name", "force")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    force: bool
    def __init__(self, name: _Optional[str] = ..., force: bool = ...) -> None: ...

class RemoveCheckpointResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InspectCheckpointRequest(_message.Message):
    __slots__ = ("checkpoint",)
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: str
    def __init__(self, checkpoint: _Optional[str] = ...) -> None: ...

class InspectCheckpointResponse(_message.Message):
    __slots__ = ("info", "statistics", "processes", "mounts", "sockets", "entries", "warnings")
    INFO_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    SOCKETS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    info: CheckpointInfo
    statistics: Statistics
    processes: _containers.RepeatedCompositeFieldContainer[ProcessInfo]
    mounts: _containers.RepeatedCompositeFieldContainer[MountInfo]
    sockets: _containers.RepeatedCompositeFieldContainer[SocketInfo]
    entries: _containers.RepeatedCompositeFieldContainer[EntryInfo]
    warnings: _containers.RepeatedCompositeFieldContainer[Warning]
    def __init__(self, info: _Optional[_Union[CheckpointInfo, _Mapping]] = ..., statistics: _Optional[_Union[Statistics, _Mapping]] = ..., processes: _Optional[_Iterable[_Union[ProcessInfo, _Mapping]]] = ..., mounts: _Optional[_Iterable[_Union[MountInfo, _Mapping]]] = ..., sockets: _Optional[_Iterable[_Union[SocketInfo, _Mapping]]] = ..., entries: _Optional[_Iterable[_Union[EntryInfo, _Mapping]]] = ..., warnings: _Optional[_Iterable[_Union[Warning, _Mapping]]] = ...) -> None: ...

class ProcessInfo(_message.Message):
    __slots__ = ("pid", "ppid", "command", "uid")
    PID_FIELD_NUMBER: _ClassVar[int]
    PPID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    ppid: int
    command: str
    uid: int
    def __init__(self, pid: _Optional[int] = ..., ppid: _Optional[int] = ..., command: _Optional[str] = ..., uid: _Optional[int] = ...) -> None: ...

class MountInfo(_message.Message):
    __slots__ = ("destination", "type", "source")
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    destination: str
    type: str
    source: str
    def __init__(self, destination: _Optional[str] = ..., type: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...

class SocketInfo(_message.Message):
    __slots__ = ("protocol", "state", "local", "remote")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    REMOTE_FIELD_NUMBER: _ClassVar[int]
    protocol: str
    state: str
    local: str
    remote: str
    def __init__(self, protocol: _Optional[str] = ..., state: _Optional[str] = ..., local: _Optional[str] = ..., remote: _Optional[str] = ...) -> None: ...

class EntryInfo(_message.Message):
    __slots__ = ("name", "size_bytes", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    size_bytes: int
    digest: str
    def __init__(self, name: _Optional[str] = ..., size_bytes: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class DoctorRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DoctorResponse(_message.Message):
    __slots__ = ("findings",)
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("id", "level", "summary", "cure")
    class Level(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        LEVEL_UNSPECIFIED: _ClassVar[Finding.Level]
        LEVEL_OK: _ClassVar[Finding.Level]
        LEVEL_WARNING: _ClassVar[Finding.Level]
        LEVEL_ERROR: _ClassVar[Finding.Level]
    LEVEL_UNSPECIFIED: Finding.Level
    LEVEL_OK: Finding.Level
    LEVEL_WARNING: Finding.Level
    LEVEL_ERROR: Finding.Level
    ID_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    CURE_FIELD_NUMBER: _ClassVar[int]
    id: str
    level: Finding.Level
    summary: str
    cure: str
    def __init__(self, id: _Optional[str] = ..., level: _Optional[_Union[Finding.Level, str]] = ..., summary: _Optional[str] = ..., cure: _Optional[str] = ...) -> None: ...
