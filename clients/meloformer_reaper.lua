-- MeloFormer in REAPER (6 or newer): the selected MIDI items and the time range go to `meloformer serve`, the answer
-- comes back as new takes, items and tracks, in one step of undo. Actions > Show action list > New action > Load ReaScript.
--   items and a time range in them     these bars are written anew
--   items and a range that goes beyond the music goes on to the end of the range
--   a range alone                      a new piece on new tracks
-- What is typed besides are fields of `meloformer generate`: seed=3; add=bass, drums; rewrite=flute; chords=Am F C G
local URL = 'http://127.0.0.1:8642'
local TPQ,NEAR = 960,1e-3 -- ticks a quarter note of what is sent; quarter notes that do not matter at a bar line
local r = reaper

local function stop(words) error({words = words}, 0) end
local function round(x) return math.floor(x+.5) end
local function qn_of(time) return r.TimeMap2_timeToQN(0, time) end

-- Bars of the project, each {start, stop, numerator, denominator, bpm}; times in quarter notes
local function measure(i)
  local _,a,z,num,den = r.TimeMap_GetMeasureInfo(0, i)
  local seconds = r.TimeMap2_QNToTime(0, z)-r.TimeMap2_QNToTime(0, a)
  return {start = a, stop = z, num = num, den = den, bpm = 60*(z-a)/seconds}
end

local function measure_at(qn) -- counted from 0
  local _,i = r.TimeMap2_timeToBeats(0, r.TimeMap2_QNToTime(0, qn))
  while measure(i).stop<=qn+NEAR do i = i+1 end -- a bar line is hit by a hair
  return i
end

-- Instruments: what a take's program change says, or else what the track is called
local CALLED = {{'bassoon',70},{'piano',0},{'harpsi',6},{'glock',9},{'marimba',12},{'organ',16},{'accord',21},{'bass',33},{'guitar',25},
  {'gtr',25},{'violin',40},{'viola',41},{'cello',42},{'harp',46},{'string',48},{'choir',52},{'vox',53},{'vocal',53},
  {'trumpet',56},{'trombone',57},{'horn',60},
  {'brass',61},{'sax',65},{'oboe',68},{'clarinet',71},{'flute',73},{'lead',80},{'pad',88}}

-- General MIDI, for the names of new tracks
local GENERAL = {}
for name in ([[
  Acoustic Grand Piano;Bright Acoustic Piano;Electric Grand Piano;Honky-tonk Piano;Electric Piano 1;
  Electric Piano 2;Harpsichord;Clavinet;Celesta;Glockenspiel;Music Box;Vibraphone;Marimba;Xylophone;
  Tubular Bells;Dulcimer;Drawbar Organ;Percussive Organ;Rock Organ;Church Organ;Reed Organ;Accordion;Harmonica;
  Tango Accordion;Acoustic Guitar (nylon);Acoustic Guitar (steel);Electric Guitar (jazz);Electric Guitar (clean);
  Electric Guitar (muted);Overdriven Guitar;Distortion Guitar;Guitar Harmonics;Acoustic Bass;
  Electric Bass (finger);Electric Bass (pick);Fretless Bass;Slap Bass 1;Slap Bass 2;Synth Bass 1;Synth Bass 2;
  Violin;Viola;Cello;Contrabass;Tremolo Strings;Pizzicato Strings;Orchestral Harp;Timpani;String Ensemble 1;
  String Ensemble 2;Synth Strings 1;Synth Strings 2;Choir Aahs;Voice Oohs;Synth Choir;Orchestra Hit;Trumpet;
  Trombone;Tuba;Muted Trumpet;French Horn;Brass Section;Synth Brass 1;Synth Brass 2;Soprano Sax;Alto Sax;
  Tenor Sax;Baritone Sax;Oboe;English Horn;Bassoon;Clarinet;Piccolo;Flute;Recorder;Pan Flute;Blown bottle;
  Shakuhachi;Whistle;Ocarina;Lead 1 (square);Lead 2 (sawtooth);Lead 3 (calliope);Lead 4 chiff;Lead 5 (charang);
  Lead 6 (voice);Lead 7 (fifths);Lead 8 (bass + lead);Pad 1 (new age);Pad 2 (warm);Pad 3 (polysynth);
  Pad 4 (choir);Pad 5 (bowed);Pad 6 (metallic);Pad 7 (halo);Pad 8 (sweep);FX 1 (rain);FX 2 (soundtrack);
  FX 3 (crystal);FX 4 (atmosphere);FX 5 (brightness);FX 6 (goblins);FX 7 (echoes);FX 8 (sci-fi);Sitar;Banjo;
  Shamisen;Koto;Kalimba;Bagpipe;Fiddle;Shanai;Tinkle Bell;Agogo;Steel Drums;Woodblock;Taiko Drum;Melodic Tom;
  Synth Drum;Reverse Cymbal;Guitar Fret Noise;Breath Noise;Seashore;Bird Tweet;Telephone Ring;Helicopter;
  Applause;Gunshot]]):gmatch('[^;\n]+') do GENERAL[#GENERAL+1] = name:match('^%s*(.*)$') end

local function sounds(track)
  track.drums = track.channel10
  if track.drums or track.program then return end
  local name = track.name:lower()
  for _,o in ipairs{'drum','perc','kit'} do if name:find(o, 1, true) then track.drums = true; return end end
  for _,o in ipairs(CALLED) do if name:find(o[1], 1, true) then track.program = o[2]; return end end
end

-- The notes of an item that are heard: {on, off, pitch, velocity, channel}, times in quarter notes of the project
local function notes_of(item, track)
  local take,notes = item.take,{}
  local _,n,controls = r.MIDI_CountEvts(take)
  for i = 0,controls-1 do
    local _,_,_,_,kind,_,value = r.MIDI_GetCC(take, i)
    if kind==0xC0 and not track.program then track.program = value end
  end
  for i = 0,n-1 do
    local _,_,muted,from,to,channel,pitch,velocity = r.MIDI_GetNote(take, i)
    local on,off = r.MIDI_GetProjQNFromPPQPos(take, from),r.MIDI_GetProjQNFromPPQPos(take, to)
    if not muted and on>=item.start-NEAR and on<item.stop-NEAR then
      notes[#notes+1] = {on = on, off = math.min(off, item.stop), pitch = pitch, velocity = velocity, channel = channel}
      if channel==9 then track.channel10 = true end
    end
  end
  return notes
end

local function repeats(item, take, media) -- does the item play its source more than once?
  if r.GetMediaItemInfo_Value(media, 'B_LOOPSRC')==0 then return false end
  local length,in_qn = r.GetMediaSourceLength(r.GetMediaItemTake_Source(take))
  local at = function(qn) return r.MIDI_GetPPQPosFromProjQN(take, qn) end
  local ticks = (at(item.start+1)-at(item.start))/r.GetMediaItemTakeInfo_Value(take, 'D_PLAYRATE')
  return in_qn and at(item.stop)>(length+NEAR)*ticks
end

-- Tracks that have selected MIDI items, from top to bottom
local function selected()
  local tracks,of = {},{}
  for i = 0,r.CountSelectedMediaItems(0)-1 do
    local media = r.GetSelectedMediaItem(0, i)
    local take = r.GetActiveTake(media)
    if take and r.TakeIsMIDI(take) then
      local owner,from = r.GetMediaItemTrack(media),r.GetMediaItemInfo_Value(media, 'D_POSITION')
      local item = {media = media, take = take, start = qn_of(from), stop = qn_of(from+r.GetMediaItemInfo_Value(media, 'D_LENGTH'))}
      local number = round(r.GetMediaTrackInfo_Value(owner, 'IP_TRACKNUMBER'))
      local _,name = r.GetSetMediaTrackInfo_String(owner, 'P_NAME', '', false)
      name = name:gsub('%s+', ' '):match('^ ?(.-) ?$')
      if repeats(item, take, media) then
        stop('An item on track '..number..' repeats its notes. Glue it (Item: Glue items), then try again.')
      end
      if not of[number] then
        name = (name=='' or #name>100) and 'Track '..number or name
        of[number] = {number = number, owner = owner, items = {}, notes = {}, name = name}
        tracks[#tracks+1] = of[number]
      end
      table.insert(of[number].items, item)
    end
  end
  table.sort(tracks, function(a, b) return a.number<b.number end)
  local seen = {}
  for _,t in ipairs(tracks) do
    if seen[t.name] then t.name = t.name..' ('..t.number..')' end -- the answer is known by its tracks' names
    seen[t.name] = true
    for _,item in ipairs(t.items) do for _,o in ipairs(notes_of(item, t)) do t.notes[#t.notes+1] = o end end
    sounds(t)
  end
  return tracks
end

-- A MIDI file, written
local function varlen(n)
  local s = string.char(n%128)
  while n>=128 do n = n//128; s = string.char(128+n%128)..s end
  return s
end

local function chunk(events) -- {tick, order, bytes}
  table.sort(events, function(a, b)
    if a[1]~=b[1] then return a[1]<b[1] end
    if a[2]~=b[2] then return a[2]<b[2] end
    return a[3]<b[3]
  end)
  local out,now = {},0
  for _,e in ipairs(events) do out[#out+1] = varlen(e[1]-now)..e[3]; now = e[1] end
  local data = table.concat(out)..'\0\255\47\0'
  return 'MTrk'..string.pack('>I4', #data)..data
end

local function midi_file(tracks, bars)
  local tick = function(qn) return math.max(0, round((qn-bars[1].start)*TPQ)) end
  local map,bpm,num,den,whole = {},nil,nil,nil,true
  for _,b in ipairs(bars) do
    if not bpm or math.abs(b.bpm-bpm)>NEAR then
      map[#map+1] = {tick(b.start), 0, '\255\81\3'..string.pack('>I3', round(6e7/b.bpm))}
      bpm = b.bpm
    end
    if b.num~=num or b.den~=den or not whole then
      local power = 0
      while 2^power<b.den do power = power+1 end
      map[#map+1] = {tick(b.start), 0, '\255\88\4'..string.char(b.num, power, 24, 8)}
    end
    num,den = b.num,b.den
    whole = math.abs(b.stop-b.start-4*num/den)<NEAR -- a bar that is cut short is followed by its meter again
  end
  local chunks,melodic = {chunk(map)},0
  for _,t in ipairs(tracks) do
    local channel,port = 9,0
    if not t.drums then channel,port = melodic%15,melodic//15; if channel>8 then channel = channel+1 end; melodic = melodic+1 end
    local sound = string.char(0xC0+channel, t.program or 0)
    local e = {{0, 0, '\255\3'..varlen(#t.name)..t.name}, {0, 1, '\255\33\1'..string.char(port)}, {0, 2, sound}}
    for _,o in ipairs(t.notes) do
      local on = tick(o.on)
      e[#e+1] = {on, 4, string.char(0x90+channel, o.pitch, o.velocity)}
      e[#e+1] = {math.max(on+1, tick(o.off)), 3, string.char(0x80+channel, o.pitch, 0)}
    end
    if #t.notes>0 then chunks[#chunks+1] = chunk(e) end
  end
  return 'MThd'..string.pack('>I4I2I2I2', 6, 1, #chunks, TPQ)..table.concat(chunks)
end

-- A MIDI file, read: tracks {name, program, drums, notes}, times in quarter notes from its beginning
local SIZE = {[8]=2,[9]=2,[10]=2,[11]=2,[12]=1,[13]=1,[14]=2}
local function read_track(s, i, stop_at, tpq)
  local t,now,status,sounding = {name = '', notes = {}},0,0,{}
  local function number() local n = 0; repeat local b = s:byte(i); n = n*128+b%128; i = i+1 until b<128; return n end
  while i<stop_at do
    now = now+number()
    if s:byte(i)>=128 then status = s:byte(i); i = i+1 end
    local kind,channel = status>>4,status&15
    if status>=0xF0 then
      local what = status==0xFF and s:byte(i) or nil
      if what then i = i+1 end
      local n = number()
      if what==3 then t.name = s:sub(i, i+n-1) end
      i = i+n
    else
      local a,b = s:byte(i, i+1)
      i = i+SIZE[kind]
      local key = channel*128+a
      if kind==12 then t.program = a end
      if kind==9 and b>0 then
        local note = {on = now/tpq, off = now/tpq, pitch = a, velocity = b, channel = channel}
        t.notes[#t.notes+1],t.drums = note,channel==9
        sounding[key] = sounding[key] or {}
        table.insert(sounding[key], note)
      elseif (kind==8 or kind==9) and sounding[key] and sounding[key][1] then table.remove(sounding[key], 1).off = now/tpq end
    end
  end
  return t
end

local function read_midi(s)
  if s:sub(1, 4)~='MThd' then stop('The answer of the server is no MIDI file.') end
  local tpq,i,tracks = string.unpack('>I2', s, 13),15,{}
  while i<#s do
    local size = string.unpack('>I4', s, i+4)
    local t = read_track(s, i+8, i+8+size, tpq)
    if #t.notes>0 then tracks[#tracks+1] = t end
    i = i+8+size
  end
  return tracks
end

-- What is asked for
local function typed()
  local ok,text = r.GetUserInputs('MeloFormer', 1, 'Besides (seed=3; add=bass),extrawidth=250,separator=|', '')
  if not ok then return end
  local fields = {}
  for part in text:gmatch('[^;]+') do
    local k,v = part:match('^%s*([%w_]+)%s*=%s*(.-)%s*$')
    if not k then k,v = part:match('^%s*([%w_]+)%s*$'),'true' end
    if k then fields[k] = v elseif part:match('%S') then stop('Write it like this: seed=3; add=bass, drums (not: '..part..')') end
  end
  return fields
end

local function settle(fields, tracks, bars, first, last, music) -- bars counted from 1; music: last bar that has notes
  local asked = fields.fill or fields.add or fields.rewrite or fields.harmonize or fields.bars
  if #tracks==0 then
    fields.bars = fields.bars or last
    fields.meter,fields.tempo = fields.meter or bars[1].num..'/'..bars[1].den,fields.tempo or round(bars[1].bpm)
    return 1,tonumber(fields.bars) or last
  end
  if not first then
    if not asked then stop('Select a time range that is to be written, or type what: add=bass, rewrite=flute, bars=16.') end
    local a,z = (fields.fill or ''):match('^(%d+)%-?(%d*)$')
    if a then return tonumber(a),tonumber(z) or tonumber(a) end
    if fields.bars then return music+1,tonumber(fields.bars) or music end
    return 1,music
  end
  if fields.fill or fields.bars then stop('The time range says which bars: leave fill and bars out, or remove the range.') end
  if last<=music then fields.fill = first..'-'..last; return first,last end
  if fields.add or fields.rewrite or fields.harmonize then
    stop('The time range goes beyond the music; add, rewrite and harmonize need notes in all of it.')
  end
  if first==1 then stop('The time range begins with the music and goes beyond it; let it begin later, or end before.') end
  if first<=music then fields.prompt_bars = first-1 else first = music+1 end
  fields.bars = last
  return first,last
end

-- Asking the server, with the curl that comes with Windows, macOS and Linux
local function read(path) local f = io.open(path, 'rb'); if not f then return '' end; local s = f:read('a'); f:close(); return s end

local function ask(fields, data)
  local folder,query = r.GetResourcePath(),{}
  local sent,got = folder..'/meloformer-asked.mid',folder..'/meloformer-answer.mid'
  for k,v in pairs(fields) do
    query[#query+1] = k..'='..tostring(v):gsub('[^%w]', function(c) return ('%%%02X'):format(c:byte()) end)
  end
  os.remove(got)
  if data then local f = assert(io.open(sent, 'wb')); f:write(data); f:close() end
  local said = r.ExecProcess((r.GetOS():match('Win') and 'curl.exe' or '/usr/bin/curl')
    ..' -sS -m 900 -X POST -o "'..got..'" -w "%{http_code}" -H "Content-Type: audio/midi" '
    ..(data and '--data-binary "@'..sent..'" ' or '')
    ..'"'..URL..'/v1/generate.mid?'..table.concat(query, '&')..'"', 0)
  local answer = read(got)
  os.remove(sent); os.remove(got)
  local status,text = (said or ''):match('^(%d+)\r?\n?(.*)$')
  if not status then stop('curl could not be started; is it installed?') end
  if status=='7' then stop('No server answers at '..URL..'.\nStart it in a terminal, and leave it open:  meloformer serve') end
  if status~='0' then stop('The server could not be asked: '..text) end
  if text:match('(%d%d%d)%s*$')~='200' then
    local words = {}
    for where,o in answer:gmatch('"loc"%s*:%s*%[(.-)%]%s*,%s*"msg"%s*:%s*"(.-[^\\])"') do
      words[#words+1] = (o:find('--', 1, true) and '' or (where:match('"([^"]*)"$') or '')..': ')..o
    end
    stop((#words>0 and table.concat(words, '\n') or answer:match('"detail"%s*:%s*"(.-[^\\])"') or answer):gsub('\\(["\\/])', '%1')..'')
  end
  return read_midi(answer)
end

-- Placing the answer
local function write(take, notes, start, stop_at, channel) -- notes that begin within these quarter notes
  local at = function(qn) return r.MIDI_GetPPQPosFromProjQN(take, qn) end
  for _,o in ipairs(notes) do
    if o.on>=start-NEAR and o.on<stop_at-NEAR then
      r.MIDI_InsertNote(take, false, false, round(at(o.on)), round(at(math.min(o.off, stop_at))), channel, o.pitch, o.velocity, true)
    end
  end
  r.MIDI_Sort(take)
end

local function new_item(owner, start, stop_at, notes, channel, program)
  local take = r.GetActiveTake(r.CreateNewMIDIItemInProj(owner, start, stop_at, true))
  if program then r.MIDI_InsertCC(take, false, false, 0, 0xC0, channel, program, 0) end
  write(take, notes, start, stop_at, channel)
end

local function new_take(item, start, stop_at, notes, channel, name)
  r.SelectAllMediaItems(0, false)
  r.SetMediaItemSelected(item.media, true)
  r.Main_OnCommand(40639, 0) -- Take: Duplicate active take
  local take = r.GetTake(item.media, r.CountTakes(item.media)-1)
  r.SetActiveTake(take)
  r.Main_OnCommand(41613, 0) -- Item: Remove active take from MIDI source data pool, so that the take before stays as it is
  r.GetSetMediaItemTakeInfo_String(take, 'P_NAME', name, true)
  local _,n = r.MIDI_CountEvts(take)
  for i = n-1,0,-1 do
    local _,_,muted,from = r.MIDI_GetNote(take, i)
    local on = r.MIDI_GetProjQNFromPPQPos(take, from)
    if not muted and on>=math.max(start, item.start)-NEAR and on<math.min(stop_at, item.stop)-NEAR then r.MIDI_DeleteNote(take, i) end
  end
  write(take, notes, math.max(start, item.start), math.min(stop_at, item.stop), channel)
end

local function gaps(items, start, stop_at) -- where no selected item lies
  table.sort(items, function(a, b) return a.start<b.start end)
  local res,now = {},start
  for _,o in ipairs(items) do
    if o.start>now+NEAR then res[#res+1] = {now, math.min(o.start, stop_at)} end
    now = math.max(now, o.stop)
  end
  if now<stop_at-NEAR then res[#res+1] = {now, stop_at} end
  return res
end

local function among(notes, start, stop_at) -- those that begin there, and what tells whether they are the same
  local res,marks = {},{}
  for _,o in ipairs(notes) do
    if o.on>=start-NEAR and o.on<stop_at-NEAR then
      res[#res+1] = o
      marks[#marks+1] = ('%d %d %d %d'):format(round(o.on*TPQ), math.max(round(o.on*TPQ)+1, round(o.off*TPQ)), o.pitch, o.velocity)
    end
  end
  table.sort(marks)
  return res,table.concat(marks, '\n')
end

local function place(answer, tracks, start, stop_at, name)
  local by_name = {}
  for _,o in ipairs(answer) do by_name[o.name] = by_name[o.name] or o end
  for _,t in ipairs(tracks) do
    local theirs = by_name[t.name]
    if theirs then theirs.known = true end
    local now,mark = among(theirs and theirs.notes or {}, start, stop_at)
    local _,before = among(t.notes, start, stop_at)
    if mark~=before then
      local channel = t.notes[1] and t.notes[1].channel or 0
      for _,item in ipairs(t.items) do
        if item.start<stop_at-NEAR and item.stop>start+NEAR then new_take(item, start, stop_at, now, channel, name) end
      end
      for _,gap in ipairs(gaps(t.items, start, stop_at)) do
        if #among(now, gap[1], gap[2])>0 then new_item(t.owner, gap[1], gap[2], now, channel) end
      end
    end
  end
  for _,o in ipairs(answer) do
    local notes = among(o.known and {} or o.notes, start, stop_at)
    if #notes>0 then
      local i,name = r.CountTracks(0),o.name~='' and o.name or o.drums and 'Drums' or GENERAL[1+(o.program or 0)]
      r.InsertTrackAtIndex(i, true)
      r.GetSetMediaTrackInfo_String(r.GetTrack(0, i), 'P_NAME', name, true)
      new_item(r.GetTrack(0, i), start, stop_at, notes, o.drums and 9 or 0, not o.drums and o.program or nil)
    end
  end
end

local function main()
  local tracks = selected()
  local from,to = r.GetSet_LoopTimeRange2(0, false, false, 0, 0, false)
  local ranged = to>from
  if #tracks==0 and not ranged then stop('Select MIDI items, a time range, or both.') end
  local start,stop_at,music = math.huge,0,0
  for _,t in ipairs(tracks) do
    for _,o in ipairs(t.items) do start,stop_at = math.min(start, o.start),math.max(stop_at, o.stop) end
    for _,o in ipairs(t.notes) do music = math.max(music, o.on+2*NEAR) end
  end
  if #tracks>0 and music==0 then stop('The selected items hold no notes.') end
  if ranged then start,stop_at = math.min(start, qn_of(from)),math.max(stop_at, qn_of(to)) end
  local fields = typed()
  if not fields then return end
  local zero,bars = measure_at(start),{}
  local function bar_of(qn) return measure_at(qn)-zero+1 end
  local function reach(n) while #bars<n do bars[#bars+1] = measure(zero+#bars) end end
  reach(bar_of(stop_at-2*NEAR))
  local music_bar = #tracks>0 and bar_of(music-2*NEAR) or 0
  local first,last = settle(fields, tracks, bars, ranged and bar_of(qn_of(from)), ranged and bar_of(qn_of(to)-2*NEAR), music_bar)
  reach(last)
  for i = math.max(first, 2),last do
    local had,b = bars[i-1],bars[i]
    if i>music_bar and i>first and (b.num~=had.num or b.den~=had.den or math.abs(b.stop-b.start-had.stop+had.start)>NEAR) then
      stop('The meter changes within the bars that are new; let the time range end at bar '..zero+i-1 ..', and go on from there.')
    end
  end
  local answer = ask(fields, #tracks>0 and midi_file(tracks, bars) or nil)
  for _,t in ipairs(answer) do for _,o in ipairs(t.notes) do o.on,o.off = o.on+bars[1].start,o.off+bars[1].start end end
  local a,z = bars[first].start,bars[last].stop
  r.Undo_BeginBlock2(0)
  r.PreventUIRefresh(1)
  local ok,e = pcall(place, answer, tracks, a, z, 'MeloFormer'..(fields.seed and ' seed '..fields.seed or ''))
  r.SelectAllMediaItems(0, false)
  for _,t in ipairs(tracks) do for _,o in ipairs(t.items) do r.SetMediaItemSelected(o.media, true) end end
  r.PreventUIRefresh(-1)
  r.Undo_EndBlock2(0, 'MeloFormer: bars '..first..' to '..last, -1)
  r.UpdateArrange()
  if not ok then r.Undo_DoUndo2(0); error(e, 0) end
end

local ok,e = pcall(main)
if not ok then r.MB(type(e)=='table' and e.words or tostring(e), 'MeloFormer', 0) end
