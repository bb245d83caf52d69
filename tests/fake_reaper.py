"As much of REAPER as clients/meloformer_reaper.lua calls, with a tempo map, items, takes and undo; the script itself runs in Lua 5.4"
import shlex, subprocess
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
import numpy as np
import lupa.lua54

@dataclass(eq=False)
class Track:
    name: str
    items: list = field(default_factory=list)

@dataclass(eq=False)
class Take:
    origin: float # Quarter notes of the project at its tick 0
    notes: list = field(default_factory=list) # [muted, start, end, channel, pitch, velocity], ticks
    controls: list = field(default_factory=list) # (tick, kind, channel, value)
    name: str = ''
    length: float = 1e9 # Quarter notes of its source
    pooled: bool = True # Would a change show in another take, too?
    tpq: int = 960

@dataclass(eq=False)
class Item:
    track: Track
    position: float # Seconds
    seconds: float
    takes: list
    active: int = 0
    loops: int = 1
    selected: bool = True

class Reaper:
    "A project; `bars` are (numerator, denominator) and the last goes on, `tempos` (quarter note, bpm)"
    def __init__(self, folder, bars=((4, 4),), tempos=((0, 120),)):
        self.folder,self.tracks,self.boxes,self.undo,self.open,self.range,self.typed = folder,[],[],[],0,(0., 0.),''
        each = [*bars]+[bars[-1]]*200
        self.bars,self.lines = each,np.append(0, np.cumsum([4*n/d for n,d in each]))
        self.at,self.bpm = np.array(tempos, float).T
        self.seconds = np.append(0, np.cumsum(np.diff(self.at)*60/self.bpm[:-1]))

    def run(self, script):
        lua = lupa.lua54.LuaRuntime(unpack_returned_tuples=True)
        lua.globals().reaper = lua.table_from({k: getattr(self, k) for k in dir(self) if k[0].isupper()})
        lua.execute(script)
        assert self.open==0, 'an undo block is left open'

    def time(self, qn):
        i = max(0, np.searchsorted(self.at, qn, 'right')-1)
        return float(self.seconds[i]+(qn-self.at[i])*60/self.bpm[i])
    def qn(self, time):
        i = max(0, np.searchsorted(self.seconds, time, 'right')-1)
        return float(self.at[i]+(time-self.seconds[i])*self.bpm[i]/60)
    def items(self): return [o for t in self.tracks for o in t.items]
    def add(self, name, *parts):
        "A track with items, each (first quarter note, end, take)"
        self.tracks.append(t := Track(name))
        for a,z,take in parts: t.items.append(Item(t, self.time(a), self.time(z)-self.time(a), [take]))
        return t
    def changes(self): assert self.open==1, 'the project is changed outside of an undo block'

    def TimeMap2_timeToQN(self, p, time): return self.qn(time)
    def TimeMap2_QNToTime(self, p, qn): return self.time(qn)
    def TimeMap2_timeToBeats(self, p, time):
        i = int(np.searchsorted(self.lines, self.qn(time), 'right'))-1
        return (self.qn(time)-float(self.lines[i]))*self.bars[i][1]/4,i,*self.bars[i]
    def TimeMap_GetMeasureInfo(self, p, i): return self.time(self.lines[i]),float(self.lines[i]),float(self.lines[i+1]),*self.bars[i],120.
    def GetSet_LoopTimeRange2(self, p, change, *_): assert not change; return self.range
    def CountSelectedMediaItems(self, p): return sum(o.selected for o in self.items())
    def GetSelectedMediaItem(self, p, i): return [o for o in self.items() if o.selected][i]
    def GetActiveTake(self, item): return item.takes[item.active]
    def TakeIsMIDI(self, take): return True
    def GetMediaItemTrack(self, item): return item.track
    def GetMediaItemInfo_Value(self, item, k): return float(dict(D_POSITION=item.position, D_LENGTH=item.seconds, B_LOOPSRC=item.loops)[k])
    def GetMediaItemTake_Source(self, take): return take
    def GetMediaSourceLength(self, take): return take.length,True
    def GetMediaItemTakeInfo_Value(self, take, k): assert k=='D_PLAYRATE'; return 1.
    def GetMediaTrackInfo_Value(self, track, k): assert k=='IP_TRACKNUMBER'; return float(self.tracks.index(track)+1)
    def _named(self, o, k, name, change):
        assert k=='P_NAME'
        if change: self.changes(); o.name = name
        return True,o.name
    def GetSetMediaTrackInfo_String(self, *args): return self._named(*args)
    def GetSetMediaItemTakeInfo_String(self, *args): return self._named(*args)
    def MIDI_CountEvts(self, take): return True,len(take.notes),len(take.controls),0
    def MIDI_GetNote(self, take, i): muted,*o = take.notes[i]; return True,False,muted,*o
    def MIDI_GetCC(self, take, i): tick,kind,channel,value = take.controls[i]; return True,False,False,tick,kind,channel,value,0
    def MIDI_GetProjQNFromPPQPos(self, take, ppq): return take.origin+ppq/take.tpq
    def MIDI_GetPPQPosFromProjQN(self, take, qn): return (qn-take.origin)*take.tpq
    def MIDI_DeleteNote(self, take, i): self.changes(); assert not take.pooled; del take.notes[i]; return True
    def MIDI_InsertNote(self, take, sel, muted, start, end, channel, pitch, velocity, unsorted):
        self.changes()
        assert not take.pooled and all(type(o) is int for o in (start, end, pitch, velocity)) and 0<=start<end
        take.notes.append([muted, start, end, channel, pitch, velocity])
        return True
    def MIDI_InsertCC(self, take, sel, muted, tick, kind, channel, value, more): self.changes(); take.controls.append((tick, kind, channel, value)); return True
    def MIDI_Sort(self, take): take.notes.sort(key=lambda o: o[1])
    def CreateNewMIDIItemInProj(self, track, a, z, in_qn):
        self.changes()
        assert in_qn and z>a
        track.items.append(Item(track, self.time(a), self.time(z)-self.time(a), [Take(a, pooled=False)], selected=False))
        return track.items[-1]
    def InsertTrackAtIndex(self, i, defaults): self.changes(); self.tracks.insert(i, Track(''))
    def GetTrack(self, p, i): return self.tracks[i]
    def CountTracks(self, p): return len(self.tracks)
    def CountTakes(self, item): return len(item.takes)
    def GetTake(self, item, i): return item.takes[i]
    def SetActiveTake(self, take):
        self.changes()
        item, = [o for o in self.items() if take in o.takes]
        item.active = item.takes.index(take)
    def SelectAllMediaItems(self, p, on):
        for o in self.items(): o.selected = on
    def SetMediaItemSelected(self, item, on): item.selected = on
    def Main_OnCommand(self, command, flag):
        self.changes()
        for o in self.items():
            if o.selected and command==40639: o.takes.append(deepcopy(o.takes[o.active]))
            elif o.selected: assert command==41613; o.takes[o.active].pooled = False
    def Undo_BeginBlock2(self, p): self.open += 1
    def Undo_EndBlock2(self, p, name, flags): self.open -= 1; self.undo.append(name)
    def Undo_DoUndo2(self, p): raise AssertionError(f'the script failed: {self.undo}')
    def PreventUIRefresh(self, n): pass
    def UpdateArrange(self): pass
    def GetResourcePath(self): return str(self.folder)
    def GetOS(self): return 'Other'
    def GetUserInputs(self, title, n, captions, values): return True,self.typed
    def ExecProcess(self, command, timeout):
        p = subprocess.run(shlex.split(command), capture_output=True, text=True)
        return f'{p.returncode}\n{p.stdout}{p.stderr}'
    def MB(self, words, title, kind): self.boxes.append(words); return 1
