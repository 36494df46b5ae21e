from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Process(_message.Message):
    __slots__ = ("pid", "ppid")
    PID_FIELD_NUMBER: _ClassVar[int]
    PPID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    ppid: int
    def __init__(self, pid: _Optional[int] = ..., ppid: _Optional[int] = ...) -> None: ...

class Core(_message.Message):
    __slots__ = ("tc", "thread_core")
    TC_FIELD_NUMBER: _ClassVar[int]
    THREAD_CORE_FIELD_NUMBER: _ClassVar[int]
    tc: Task
    thread_core: Thread
    def __init__(self, tc: _Optional[_Union[Task, _Mapping]] = ..., thread_core: _Optional[_Union[Thread, _Mapping]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("comm",)
    COMM_FIELD_NUMBER: _ClassVar[int]
    comm: bytes
    def __init__(self, comm: _Optional[bytes] = ...) -> None: ...

class Thread(_message.Message):
    __slots__ = ("creds",)
    CREDS_FIELD_NUMBER: _ClassVar[int]
    creds: Credentials
    def __init__(self, creds: _Optional[_Union[Credentials, _Mapping]] = ...) -> None: ...

class Credentials(_message.Message):
    __slots__ = ("uid",)
    UID_FIELD_NUMBER: _ClassVar[int]
    uid: int
    def __init__(self, uid: _Optional[int] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("isk", "tfd")
    ISK_FIELD_NUMBER: _ClassVar[int]
    TFD_FIELD_NUMBER: _ClassVar[int]
    isk: InetSocket
    tfd: Timer
    def __init__(self, isk: _Optional[_Union[InetSocket, _Mapping]] = ..., tfd: _Optional[_Union[Timer, _Mapping]] = ...) -> None: ...

class Timer(_message.Message):
    __slots__ = ("vsec", "vnsec", "isec", "insec")
    VSEC_FIELD_NUMBER: _ClassVar[int]
    VNSEC_FIELD_NUMBER: _ClassVar[int]
    ISEC_FIELD_NUMBER: _ClassVar[int]
    INSEC_FIELD_NUMBER: _ClassVar[int]
    vsec: int
    vnsec: int
    isec: int
    insec: int
    def __init__(self, vsec: _Optional[int] = ..., vnsec: _Optional[int] = ..., isec: _Optional[int] = ..., insec: _Optional[int] = ...) -> None: ...

class InetSocket(_message.Message):
    __slots__ = ("family", "proto", "state", "src_port", "dst_port", "src_addr", "dst_addr")
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    PROTO_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SRC_PORT_FIELD_NUMBER: _ClassVar[int]
    DST_PORT_FIELD_NUMBER: _ClassVar[int]
    SRC_ADDR_FIELD_NUMBER: _ClassVar[int]
    DST_ADDR_FIELD_NUMBER: _ClassVar[int]
    family: int
    proto: int
    state: int
    src_port: int
    dst_port: int
    src_addr: _containers.RepeatedScalarFieldContainer[int]
    dst_addr: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, family: _Optional[int] = ..., proto: _Optional[int] = ..., state: _Optional[int] = ..., src_port: _Optional[int] = ..., dst_port: _Optional[int] = ..., src_addr: _Optional[_Iterable[int]] = ..., dst_addr: _Optional[_Iterable[int]] = ...) -> None: ...

class Mount(_message.Message):
    __slots__ = ("fstype", "mountpoint", "source", "fsname")
    FSTYPE_FIELD_NUMBER: _ClassVar[int]
    MOUNTPOINT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FSNAME_FIELD_NUMBER: _ClassVar[int]
    fstype: int
    mountpoint: bytes
    source: bytes
    fsname: bytes
    def __init__(self, fstype: _Optional[int] = ..., mountpoint: _Optional[bytes] = ..., source: _Optional[bytes] = ..., fsname: _Optional[bytes] = ...) -> None: ...
